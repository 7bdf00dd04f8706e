"""Two clients on one store, in any order of what they and the world can do to it."""

import math
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from icm_client.endpoints import Answer, Exactness, Read
from icm_client.scoring import store as store_module
from icm_client.scoring.prompts import score_keys
from icm_client.scoring.store import ScoreStore
from icm_client.scoring.store_upkeep import check

pytestmark = pytest.mark.slow

DAY_S = 86_400
READS = [Read((1, 2, number), (5, 7)) for number in range(12)]
SERVERS = ("one", "other")

clients = st.integers(0, 1)
servers = st.sampled_from(SERVERS)
some_reads = st.lists(st.sampled_from(READS), min_size=1, max_size=5, unique=True)
texts = st.sampled_from(["", "a", "é", "a b"])


class StoreMachine(RuleBasedStateMachine):
    """What was accepted is found again, bit for bit, or was withdrawn on purpose.

    The model is a dictionary of the answers that stand, with the moment they were stored. A server
    repeats itself only roughly, so every answer put is another number: the first one must stand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "scores.sqlite3"
        self.wall, self.even = 1_800_000_000.0, 5000.0
        self.patched = pytest.MonkeyPatch()
        clocks = SimpleNamespace(time=lambda: self.wall, monotonic=lambda: self.even)
        self.patched.setattr(store_module, "time", clocks)
        self.clients = [ScoreStore.open(self.path) for _ in range(2)]
        self.standing: dict[tuple[str, Read], tuple[Answer, int]] = {}
        self.tokens: dict[tuple[str, str], tuple[int, ...]] = {}
        self.put = 0

    @initialize(client=clients)
    def begin(self, client: int) -> None:
        assert self.clients[client].get_many("one", READS) == [None] * len(READS)

    @rule(client=clients, server=servers, reads=some_reads)
    def put_answers(self, client: int, server: str, reads: list[Read]) -> None:
        answers = [self._answer() for _ in reads]
        found = self.clients[client].put_many(server, reads, answers)
        for read, answer in zip(reads, answers, strict=True):
            self.standing.setdefault((server, read), (answer, int(self.clients[client].now())))
        assert found == self._expected(server, reads)

    @rule(client=clients, server=servers, reads=some_reads)
    def get(self, client: int, server: str, reads: list[Read]) -> None:
        assert self.clients[client].get_many(server, reads) == self._expected(server, reads)

    @rule(client=clients, server=servers, back_s=st.integers(0, 3 * DAY_S))
    def withdraw(self, client: int, server: str, back_s: int) -> None:
        since = self.clients[client].now() - back_s
        doubtful = [
            key
            for key, (_, at) in self.standing.items()
            if key[0] == server and at >= math.floor(since)
        ]
        assert self.clients[client].withdraw(server, since) == len(doubtful)
        for key in doubtful:
            del self.standing[key]

    @rule(client=clients, server=servers, text=texts, ids=st.lists(st.integers(0, 9), max_size=3))
    def put_tokens(self, client: int, server: str, text: str, ids: list[int]) -> None:
        self.clients[client].put_tokens(server, [text], [tuple(ids)], add_special=False)
        self.tokens[server, text] = tuple(ids)

    @rule(client=clients, server=servers, text=texts)
    def get_tokens(self, client: int, server: str, text: str) -> None:
        (found,) = self.clients[client].get_tokens(server, [text], add_special=False)
        assert found == self.tokens.get((server, text))

    @rule(seconds=st.floats(0.1, DAY_S))
    def time_passes(self, seconds: float) -> None:
        self.wall += seconds
        self.even += seconds

    @rule(seconds=st.integers(-DAY_S, DAY_S))
    def the_wall_clock_is_set(self, seconds: int) -> None:
        self.wall += seconds

    @rule(client=clients)
    def a_client_ends_and_comes_back(self, client: int) -> None:
        self.clients[client].close()
        self.clients[client] = ScoreStore.open(self.path)

    @rule(client=clients, reads=some_reads)
    def a_client_dies_in_a_transaction(self, client: int, reads: list[Read]) -> None:
        """Its connection goes away with answers written and not committed."""
        dying = sqlite3.connect(self.path, isolation_level=None)
        dying.execute("BEGIN IMMEDIATE")
        keys = score_keys("one", reads)
        dying.executemany("DELETE FROM scores WHERE key = ?", [(key,) for key in keys])
        dying.execute("UPDATE scores SET log_probs = zeroblob(16)")
        assert self.clients[client].get_many("one", reads) == self._expected("one", reads)
        dying.close()

    @rule(server=servers, read=st.sampled_from(READS), bit=st.integers(0, 127))
    def a_bit_flips(self, server: str, read: Read, bit: int) -> None:
        """Such an answer is missing from now on, and may be given again."""
        (key,) = score_keys(server, [read])
        with sqlite3.connect(self.path) as connection:
            found = connection.execute("SELECT log_probs FROM scores WHERE key = ?", [key])
            for (blob,) in found.fetchall():
                flipped = bytearray(blob)
                flipped[bit // 8] ^= 1 << bit % 8
                connection.execute("UPDATE scores SET log_probs = ? WHERE key = ?", [flipped, key])
        connection.close()
        self.standing.pop((server, read), None)
        assert self.clients[0].get_many(server, [read]) == [None]
        self.clients[1].put_many(server, [read], [answer := self._answer()])
        self.standing[server, read] = (answer, int(self.clients[1].now()))

    @invariant()
    def both_see_what_stands(self) -> None:
        for client in self.clients:
            for server in SERVERS:
                assert client.get_many(server, READS) == self._expected(server, READS)

    def teardown(self) -> None:
        for client in self.clients:
            assert client.notices == ()
            client.close()
        assert check(self.path).whole
        self.patched.undo()
        self.folder.cleanup()

    def _answer(self) -> Answer:
        self.put += 1
        return Answer((-1 / self.put, -2.0), Exactness.EXACT)

    def _expected(self, server: str, reads: Sequence[Read]) -> list[Answer | None]:
        found = [self.standing.get((server, read)) for read in reads]
        return [None if one is None else one[0] for one in found]


def test_an_accepted_answer_stands_until_it_is_withdrawn() -> None:
    chosen = settings(
        max_examples=25,
        stateful_step_count=30,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(StoreMachine, settings=chosen)
