"""Runs on one store, in any order of faults, ends and damage; then they are left alone."""

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from icm_client import Labels, Server, SweepSettings, Task, label, rows_from
from icm_client.endpoints import Answer, Read, RetryPolicy, TransportSettings
from icm_client.errors import EndpointUnreachable, IcmError
from icm_client.record.archive import list_runs
from icm_client.record.journal import read
from icm_client.scoring import ScoreStore
from icm_client.testing import (
    Fault,
    PlantedConcept,
    PlantedServer,
    answering,
    error_200,
    reset,
    short_body,
    status,
    with_log_prob,
    without_label,
)

pytestmark = pytest.mark.slow

TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
TEXTS = [f"words of row {i}" for i in range(8)]
SEARCH = SweepSettings(initial=4, demos=4, second_demos=4, min_sweeps=2, max_sweeps=3, restarts=1)
WIRE = TransportSettings(
    retry=RetryPolicy(attempts=4, initial_wait_s=0.0, retry_after_cap_s=0.01, bad_answers=3)
)
FAULTS: tuple[Fault | None, ...] = (
    None,
    None,
    status(500),
    status(503),
    status(429, headers={"Retry-After": "0"}),
    reset(),
    reset(after_bytes=30),
    short_body(40),
    answering("<html>"),
    error_200(),
    with_log_prob("NaN"),
    with_log_prob("-9999.0"),
    without_label(),
)

seeds = st.integers(0, 1)
moments = st.integers(0, 40)
lanes = st.integers(1, 3)


class Told(PlantedConcept):
    """Notes what the formula says to each read, and calls `before` with how many there were."""

    def __init__(self, heard: dict[Read, Answer], *, lanes: int = 1) -> None:
        prompts = TASK.render_all(rows_from(TEXTS))
        super().__init__(
            {prompt: i * 7 % 5 % 2 for i, prompt in enumerate(prompts)},
            TASK.label_texts,
            lanes=lanes,
        )
        self.heard = heard
        self.reads = 0
        self.before: Callable[[int], None] = lambda _: None

    async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        self.before(self.reads)
        self.reads += len(reads)
        answers = await super().read(reads, lane=lane)
        self.heard.update(zip(reads, answers, strict=True))
        return answers


@cache
def undisturbed(seed: int) -> bytes:
    """The labels file of a run that was left alone."""
    with tempfile.TemporaryDirectory() as folder:
        found = anyio.run(partial(labels_of, Path(folder), Told({}), seed))
        assert found.run is not None
        return (found.run / "labels.jsonl").read_bytes()


async def labels_of(folder: Path, endpoint: PlantedConcept | Server, seed: int) -> Labels:
    return await label(
        TEXTS,
        task=TASK,
        endpoint=endpoint,
        seed=seed,
        settings=SEARCH,
        store=folder / "store",
        runs=folder / "runs",
    )


class RunMachine(RuleBasedStateMachine):
    """Whatever happened, no score differs from the formula's and no labels from the undisturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.heard: dict[Read, Answer] = {}
        self.fingerprints = {Told({}).identity.fingerprint}
        self.undisturbed = [undisturbed(seed) for seed in (0, 1)]

    @rule(seed=seeds, moment=moments, lanes=lanes)
    def the_server_goes_away(self, seed: int, moment: int, lanes: int) -> None:
        anyio.run(self._lost, seed, moment, lanes)

    @rule(seed=seeds, moment=moments, lanes=lanes)
    def a_run_is_cancelled(self, seed: int, moment: int, lanes: int) -> None:
        anyio.run(self._cancelled, seed, moment, lanes)

    @rule(moment=moments)
    def two_runs_at_once_and_one_loses_its_server(self, moment: int) -> None:
        async def both() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._lost, 0, moment, 2)
                tasks.start_soon(self._whole, 1, 2)

        anyio.run(both)

    @rule(seed=seeds, faults=st.lists(st.sampled_from(FAULTS), max_size=12))
    def a_run_over_http_meets_faults(self, seed: int, faults: list[Fault | None]) -> None:
        async def over_http() -> None:
            async with PlantedServer(Told(self.heard), faults=faults) as server:
                try:
                    found = await labels_of(self.folder, Server(server.url, transport=WIRE), seed)
                except IcmError:
                    return
                self.fingerprints.add(found.server.fingerprint)
                self._check(found, seed)

        anyio.run(over_http)

    @precondition(lambda self: (self.folder / "store").exists())
    @rule(nth=st.integers(0, 60), bit=st.integers(0, 127))
    def a_bit_of_a_score_flips(self, nth: int, bit: int) -> None:
        with closing(sqlite3.connect(self.folder / "store")) as connection, connection:
            rows = connection.execute("SELECT key, log_probs FROM scores ORDER BY key").fetchall()
            for key, blob in rows[nth : nth + 1]:
                flipped = bytearray(blob)
                flipped[bit // 8] ^= 1 << bit % 8
                connection.execute("UPDATE scores SET log_probs = ? WHERE key = ?", [flipped, key])

    @precondition(lambda self: (self.folder / "store").exists())
    @rule()
    def every_answer_is_withdrawn(self) -> None:
        with ScoreStore.open(self.folder / "store") as store:
            for fingerprint in self.fingerprints:
                store.withdraw(fingerprint, 0.0)

    @rule(torn=st.binary(max_size=20).map(lambda some: some.replace(b"\n", b"")))
    def the_last_line_of_each_journal_is_torn(self, torn: bytes) -> None:
        for journal in self.folder.glob("runs/*/journal.jsonl"):
            with journal.open("ab") as file:
                file.write(torn)

    @rule(seed=seeds, lanes=lanes)
    def a_run_is_left_alone(self, seed: int, lanes: int) -> None:
        anyio.run(self._whole, seed, lanes)

    @invariant()
    def every_score_is_the_formulas(self) -> None:
        if (self.folder / "store").exists():
            with ScoreStore.open(self.folder / "store") as store:
                for fingerprint in self.fingerprints:
                    stored = store.get_many(fingerprint, list(self.heard))
                    pairs = zip(stored, self.heard.values(), strict=True)
                    assert all(found in (None, formula) for found, formula in pairs)

    @invariant()
    def every_labels_file_is_an_undisturbed_ones(self) -> None:
        listed = list_runs(self.folder / "runs")
        assert listed.notes == ()
        for run in listed.runs:
            assert run.state in ("done", "failed", "stopped")
            assert (run.state != "done") or (run.path / "labels.jsonl").exists()
        for file in self.folder.glob("runs/*/labels.jsonl"):
            assert file.read_bytes() in self.undisturbed

    def teardown(self) -> None:
        with self.temporary:
            self._check_end()

    def _check_end(self) -> None:
        anyio.run(self._whole, 0, 1)
        anyio.run(self._whole, 1, 3)
        for run in list_runs(self.folder / "runs").runs:
            events = read(run.path / "journal.jsonl")
            numbers = [event["sweep"] for event in events if event["event"] == "sweep"]
            assert numbers == list(range(len(numbers))), "a sweep is missing or told twice"

    async def _lost(self, seed: int, moment: int, lanes: int) -> None:
        endpoint = Told(self.heard, lanes=lanes)

        def gone(reads: int) -> None:
            if reads >= moment:
                raise EndpointUnreachable("connection refused")

        endpoint.before = gone
        try:
            self._check(await labels_of(self.folder, endpoint, seed), seed)
        except EndpointUnreachable:
            return

    async def _cancelled(self, seed: int, moment: int, lanes: int) -> None:
        endpoint = Told(self.heard, lanes=lanes)
        with anyio.CancelScope() as scope:

            def cancel(reads: int) -> None:
                if reads >= moment:
                    scope.cancel()

            endpoint.before = cancel
            self._check(await labels_of(self.folder, endpoint, seed), seed)

    async def _whole(self, seed: int, lanes: int) -> None:
        self._check(await labels_of(self.folder, Told(self.heard, lanes=lanes), seed), seed)

    def _check(self, found: Labels, seed: int) -> None:
        assert found.run is not None
        assert (found.run / "labels.jsonl").read_bytes() == self.undisturbed[seed]


def test_random_faults_and_interleavings_change_no_score_and_no_label() -> None:
    chosen = settings(
        max_examples=15,
        stateful_step_count=12,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(RunMachine, settings=chosen)
