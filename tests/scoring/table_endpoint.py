"""An endpoint whose answers are a function of the ids asked, and which remembers what it was sent.

Its fingerprint counts as one of its weights, so that no stored answer is asked again, unless a test
says otherwise.

Its tokenizer writes one token a word (with the space in front) and one a line break.
"""

import math
import re
from collections.abc import Sequence
from hashlib import blake2b

import anyio

from icm_client.endpoints.protocol import (
    Answer,
    Exactness,
    Read,
    ServerIdentity,
    TokenIds,
    Usage,
)
from icm_client.errors import EndpointFault

BOS = 1


def table_answer(read: Read) -> Answer:
    return Answer(tuple(_log_prob(read.prompt, token) for token in read.wanted), Exactness.EXACT)


def _log_prob(prompt: TokenIds, token: int) -> float:
    digest = blake2b(repr((prompt, token)).encode(), digest_size=6).digest()
    return math.log((int.from_bytes(digest) + 1) / 2**48)


class TableEndpoint:
    def __init__(
        self,
        *,
        lanes: int = 0,
        fail_after: int | None = None,
        fingerprint: str = "f1",
        of_weights: bool = True,
    ) -> None:
        self.identity = ServerIdentity("vllm", "table", 1000, fingerprint, of_weights)
        self.lanes = lanes
        self.usage = Usage()
        self.fail_after = fail_after
        self.asked: list[Read] = []
        self.groups: list[tuple[int | None, tuple[Read, ...]]] = []
        self.events: list[tuple[str, TokenIds]] = []
        self.texts: list[str] = []
        self.words: dict[str, int] = {}
        self.busy: set[int] = set()

    async def tokenize(self, text: str, *, add_special: bool) -> TokenIds:
        await anyio.lowlevel.checkpoint()
        self.texts.append(text)
        found = re.findall(r" ?[^ \n]+| |\n", text)
        ids = tuple(self.words.setdefault(word, len(self.words) + 2) for word in found)
        return (BOS, *ids) if add_special else ids

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        assert reads
        assert len({read.wanted for read in reads}) == 1
        assert (lane is None) == (self.lanes == 0)
        assert lane is None or lane in range(self.lanes)
        if lane is not None:
            assert lane not in self.busy, "two requests at once in one slot"
            self.busy.add(lane)
        self.groups.append((lane, tuple(reads)))
        # Later requests overtake earlier ones.
        try:
            await anyio.sleep(0.001 * (len(self.groups) % 3))
        finally:
            if lane is not None:
                self.busy.discard(lane)
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise EndpointFault("500")
        self.asked += reads
        self.events += [("read", read.prompt) for read in reads]
        return [table_answer(read) for read in reads]

    async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
        assert lane is None
        await anyio.sleep(0.001)
        self.events.append(("warm", prefix))

    async def aclose(self) -> None:
        pass
