"""What is done about answers that may be another model's."""

import anyio

from icm_client.errors import IcmError, ModelChanged
from icm_client.scoring.store import ScoreStore


def withdraw_doubtful(error: IcmError, store: ScoreStore, fingerprint: str) -> int:
    """Take out of the store what came since the server was last known to be what it was.

    Args:
        error: why a call ended; only a `ModelChanged`, or a group of errors with one in it, casts
            doubt on anything.
        store: where the answers are.
        fingerprint: whose they were taken for.

    Returns:
        How many answers.

    Raises:
        StoreError: the store cannot be written.
    """
    changed = _change(error)
    if changed is None:
        return 0
    ago_s = anyio.current_time() - changed.last_confirmed_at
    return store.withdraw(fingerprint, store.now() - ago_s)


def _change(error: IcmError) -> ModelChanged | None:
    """The change among what ended a call: of several failures, one was raised for all."""
    together = error.__cause__
    if isinstance(error, ModelChanged) or not isinstance(together, BaseExceptionGroup):
        return error if isinstance(error, ModelChanged) else None
    found: BaseException | None = together.subgroup(ModelChanged)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, ModelChanged) else None
