"""A few reads made a second time, to see by how much a server's answers vary.

The store keeps one answer to each question, so the second one is kept under another fingerprint,
made from the server's. The same command again asks for neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from icm_client.coherence.problem import FloatArray, Query
from icm_client.endpoints import Answer, Endpoint, Read, ServerIdentity, TokenIds, Usage
from icm_client.endpoints.parsing import fingerprint
from icm_client.scoring import Pieces, Scorer, ScoreStore, ScoringProgress


async def read_again(
    queries: Sequence[Query],
    server: Endpoint,
    store: ScoreStore,
    pieces: Pieces,
    run: Scorer,
    *,
    on_progress: Callable[[ScoringProgress], None],
    stopping: Callable[[], bool],
) -> FloatArray:
    """Ask what was asked before once more, and return by how much the answers differ.

    Returns:
        Shape `[len(queries), K]`, nats: the second log-probs less the first; NaN where the server
        refused one.
    """
    again = _AskedAgain(server)
    first, second = (
        Scorer(
            endpoint,
            store,
            pieces,
            on_progress=on_progress if endpoint is again else None,
            on_failed=lambda _: None,  # a row that fails has been reported by the search
            stopping=stopping,
            drift=run.drift,
        )
        for endpoint in (server, again)
    )
    second.stats = run.stats
    before = await first(queries)
    after = await second(queries)
    store.record_server(again.identity)
    difference: FloatArray = after - before
    return difference


def second_fingerprint(first: str) -> str:
    """The fingerprint under which the second answers of the server `first` are kept."""
    return fingerprint({"server": first, "repeat": "1"})


class _AskedAgain:
    """An `Endpoint` whose answers are kept apart from those that it gave the first time."""

    def __init__(self, server: Endpoint) -> None:
        self._server = server
        first = server.identity
        self._identity = replace(first, fingerprint=second_fingerprint(first.fingerprint))

    @property
    def identity(self) -> ServerIdentity:
        return self._identity

    @property
    def lanes(self) -> int:
        return self._server.lanes

    @property
    def usage(self) -> Usage:
        return self._server.usage

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        return await self._server.tokenize(text, add_special=add_special)

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        return await self._server.read(reads, lane=lane)

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        await self._server.warm(prefix, lane=lane)

    async def aclose(self) -> None:
        """Leave the server to whoever opened it."""
