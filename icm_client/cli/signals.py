"""What Ctrl-C, TERM and a closed terminal do to a run: the first drains it, the second ends it.

A hang-up (HUP) is sent where a terminal is closed or a connection to it breaks. It is ignored where
it was ignored when the program began: `nohup` lets a run outlive its terminal.
"""

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskStatus

from icm_client.cli.streams import say_above
from icm_client.errors import IcmError, Retry, RunStopped
from icm_client.task_groups import open_task_group

if TYPE_CHECKING:
    from icm_client.runs.result import Labels
    from icm_client.scoring import ScoreStore

_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")

DRAINED: Final = (
    "Stopping: requests under way are awaited and their scores kept. Again to stop at once."
)


class Interrupted(Exception):
    """A signal has ended the run.

    Attributes:
        status: the exit status that says so: 130 for Ctrl-C, 143 for TERM, 129 for HUP.
        labels: what a `label` call had found by then; None where it had nothing.
        goes_on: whether scores may have been kept, from which the same command goes on.
    """

    def __init__(
        self, number: int, labels: "Labels | None" = None, *, goes_on: bool = True
    ) -> None:
        """Keep which signal it was, and what was found."""
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number
        self.labels = labels
        self.goes_on = goes_on


class Drain:
    """Whether a signal has come; `stopping` is for `icm_client.label`."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def stopping(self) -> bool:
        """Whether no further request is to be begun."""
        return bool(self.signals)


@asynccontextmanager
async def draining(words: str = DRAINED) -> AsyncIterator[Drain]:
    """Drain what happens in the block at the first signal, and cancel it at a second one.

    On Windows, where an event loop gets no signals, Ctrl-C ends at once.

    Args:
        words: printed at the first one.

    Raises:
        Interrupted: a signal came before all was done.
    """
    drain = Drain()
    if sys.platform == "win32":
        yield drain
        return
    async with open_task_group() as tasks:
        await tasks.start(_listen, drain, tasks.cancel_scope, words)
        try:
            yield drain
        except RunStopped as stopped:
            if not drain.signals:
                raise
            raise Interrupted(
                drain.signals[0], stopped.labels, goes_on=stopped.goes_on
            ) from stopped
        except IcmError as error:
            # A request that was not repeated because of the stop: the user asked for that.
            if not drain.signals or error.retry is Retry.NEVER:
                raise
            raise Interrupted(drain.signals[0], goes_on=error.goes_on) from error
        tasks.cancel_scope.cancel()
    if len(drain.signals) > 1:
        raise Interrupted(drain.signals[0])


@contextmanager
def ended_at_once(store: "ScoreStore") -> Iterator[None]:
    """Let an interruption that ends the block at once say whether scores were kept.

    That is Ctrl-C where nothing drains what happens inside, and the second signal where something
    does.

    Raises:
        Interrupted: Ctrl-C came, or `draining` has raised it inside.
    """
    try:
        yield
    except Interrupted as stopped:
        stopped.goes_on = stopped.goes_on and store.answers > 0
        raise
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, goes_on=store.answers > 0) from None


async def _listen(
    drain: Drain, inside: anyio.CancelScope, words: str, *, task_status: TaskStatus[None]
) -> None:
    listened = [signal.Signals[name] for name in _SIGNALS]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        listened.remove(signal.SIGHUP)
    with anyio.open_signal_receiver(*listened) as signals:
        task_status.started()
        async for number in signals:
            if drain.signals and number == signal.SIGHUP:
                continue  # a shell and its terminal send one each
            drain.signals.append(number)
            if len(drain.signals) > 1:
                inside.cancel()
                return
            say_above(f"\n{words}")
