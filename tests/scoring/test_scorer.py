import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest
from table_endpoint import BOS, TableEndpoint, table_answer

from icm_client.coherence.problem import Demo, FloatArray, Query
from icm_client.endpoints.protocol import Answer, Exactness, Read, TokenIds
from icm_client.errors import (
    EndpointFault,
    MalformedAnswer,
    PromptTooLong,
    ScoreNotFinite,
    TaskError,
)
from icm_client.scoring import Pieces, Scorer, ScoreStore, ScoringProgress, prompt_ids

PIECES = Pieces(
    bos=(BOS,),
    prompts=tuple(tuple(range(100 * n, 100 * n + 10 + n)) for n in range(1, 13)),
    labels=((7,), (5, 6), (5, 9)),
    separator=(3,),
    label_texts=(" yes", " no", " not"),
)
# Two fold contexts of 6 demos and their 12 targets, plus zero-shot: 24 queries, 2 reads each.
FOLDS = [tuple(Demo(item, item % 3) for item in range(start, 12, 2)) for start in (0, 1)]
QUERIES = [Query(FOLDS[(item + 1) % 2], item) for item in range(12)]
QUERIES += [Query((), item) for item in range(12)]


def expected() -> FloatArray:
    rows = []
    for query in QUERIES:
        prompt = prompt_ids(PIECES, query)
        first = table_answer(Read(prompt, (5, 7))).log_probs
        second = table_answer(Read((*prompt, 5), (6, 9))).log_probs
        rows.append([first[1], first[0] + second[0], first[0] + second[1]])
    return np.array(rows)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScoreStore]:
    with ScoreStore.open(tmp_path / "scores.sqlite3") as opened:
        yield opened


@pytest.fixture(params=[0, 1, 3])
def lanes(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


async def test_scores_are_those_of_the_table_whatever_the_server(
    store: ScoreStore, lanes: int
) -> None:
    endpoint = TableEndpoint(lanes=lanes)
    scores = await Scorer(endpoint, store, PIECES, group_size=4)(QUERIES)
    np.testing.assert_array_equal(scores, expected())
    assert len(endpoint.asked) == len(set(endpoint.asked)) == 48
    assert max(len(reads) for _, reads in endpoint.groups) == (1 if lanes else 4)


async def test_replay_equals_run_and_asks_nothing(store: ScoreStore, lanes: int) -> None:
    first = await Scorer(TableEndpoint(lanes=lanes), store, PIECES)(QUERIES)
    endpoint = TableEndpoint(lanes=lanes)
    scorer = Scorer(endpoint, store, PIECES)
    np.testing.assert_array_equal(await scorer(QUERIES), first)
    assert endpoint.groups == []
    assert endpoint.events == []
    assert (scorer.stats.asked, scorer.stats.from_store) == (0, 48)


async def test_after_a_failure_only_the_missing_is_asked(store: ScoreStore, lanes: int) -> None:
    broken = TableEndpoint(lanes=lanes, fail_after=20)
    with pytest.raises(EndpointFault):
        await Scorer(broken, store, PIECES, group_size=4)(QUERIES)
    endpoint = TableEndpoint(lanes=lanes)
    scorer = Scorer(endpoint, store, PIECES, group_size=4)
    np.testing.assert_array_equal(await scorer(QUERIES), expected())
    assert scorer.stats.from_store == len(broken.asked) >= 20
    assert set(endpoint.asked).isdisjoint(broken.asked)
    assert len(endpoint.asked) + len(broken.asked) == 48


async def test_a_cancelled_call_keeps_every_answer_that_arrived(
    store: ScoreStore, lanes: int
) -> None:
    stopped = TableEndpoint(lanes=lanes)
    with anyio.CancelScope() as scope:

        def stop_halfway(progress: ScoringProgress) -> None:
            if progress.done >= 20:
                scope.cancel()

        await Scorer(stopped, store, PIECES, group_size=4, on_progress=stop_halfway)(QUERIES)
    assert scope.cancelled_caught
    endpoint = TableEndpoint(lanes=lanes)
    await Scorer(endpoint, store, PIECES)(QUERIES)
    assert len(endpoint.asked) + len(stopped.asked) == 48


KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import anyio
from icm_client.scoring import Scorer, ScoreStore
from table_endpoint import TableEndpoint
from test_scorer import PIECES, QUERIES

def kill_halfway(progress):
    if progress.done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)

store = ScoreStore.open(Path(sys.argv[1]))
anyio.run(Scorer(TableEndpoint(lanes=1), store, PIECES, on_progress=kill_halfway), QUERIES)
"""


async def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite3"
    here = str(Path(__file__).parent)
    killed = await anyio.run_process(
        [sys.executable, "-c", KILLED_HALFWAY, str(path), here], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with ScoreStore.open(path) as store:
        endpoint = TableEndpoint(lanes=1)
        np.testing.assert_array_equal(await Scorer(endpoint, store, PIECES)(QUERIES), expected())
    assert len(endpoint.asked) == 28


async def test_a_replay_can_be_cancelled(store: ScoreStore) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Scorer(TableEndpoint(), store, PIECES)([])
    assert scope.cancelled_caught


async def test_the_same_question_is_asked_once(store: ScoreStore, lanes: int) -> None:
    endpoint = TableEndpoint(lanes=lanes)
    scores = await Scorer(endpoint, store, PIECES)([QUERIES[0]] * 5)
    assert len(endpoint.asked) == 2
    assert (scores == scores[0]).all()


async def test_no_queries_no_requests(store: ScoreStore) -> None:
    assert (await Scorer(TableEndpoint(), store, PIECES)([])).shape == (0, 3)


async def test_a_flipped_byte_is_asked_again(store: ScoreStore) -> None:
    scores = await Scorer(TableEndpoint(), store, PIECES)(QUERIES)
    rows = store._db.execute("SELECT key, log_probs FROM scores LIMIT 1").fetchall()
    key, blob = rows[0]
    damaged = bytes([blob[0] ^ 1]) + blob[1:]
    store._db.execute("UPDATE scores SET log_probs = ? WHERE key = ?", [damaged, key])
    endpoint = TableEndpoint()
    np.testing.assert_array_equal(await Scorer(endpoint, store, PIECES)(QUERIES), scores)
    assert len(endpoint.asked) == 1


async def test_another_server_is_asked_anew(store: ScoreStore) -> None:
    await Scorer(TableEndpoint(), store, PIECES)(QUERIES)
    other = TableEndpoint(fingerprint="f2")
    await Scorer(other, store, PIECES)(QUERIES)
    assert len(other.asked) == 48


async def test_an_answer_stored_meanwhile_by_another_run_is_used(
    store: ScoreStore, tmp_path: Path
) -> None:
    theirs = Answer((-1.0, -1.0), Exactness.EXACT)

    class Raced(TableEndpoint):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            with ScoreStore.open(tmp_path / "scores.sqlite3") as other:
                other.put_many("f1", reads, [theirs] * len(reads))
            return await super().read(reads, lane=lane)

    scores = await Scorer(Raced(), store, PIECES)(QUERIES)
    np.testing.assert_array_equal(scores, [[-1.0, -2.0, -2.0]] * 24)
    np.testing.assert_array_equal(await Scorer(TableEndpoint(), store, PIECES)(QUERIES), scores)


async def test_prefixes_are_warmed_before_their_followers(store: ScoreStore) -> None:
    endpoint = TableEndpoint()
    await Scorer(endpoint, store, PIECES, group_size=4)(QUERIES)
    warmed = [prefix for kind, prefix in endpoint.events if kind == "warm"]
    assert len(warmed) == 2
    for prefix in warmed:
        place = endpoint.events.index(("warm", prefix))
        for kind, prompt in endpoint.events[:place]:
            assert kind == "warm" or prompt[: len(prefix)] != prefix


async def test_a_first_token_is_asked_before_the_rest_of_its_label(
    store: ScoreStore, lanes: int
) -> None:
    endpoint = TableEndpoint(lanes=lanes)
    await Scorer(endpoint, store, PIECES, group_size=4)(QUERIES)
    place = {read: number for number, read in enumerate(endpoint.asked)}
    for read, number in place.items():
        if read.wanted == (6, 9):
            assert place[Read(read.prompt[:-1], (5, 7))] < number


async def test_a_resumed_run_warms_the_same_prefixes(store: ScoreStore) -> None:
    fresh = TableEndpoint()
    scorer = Scorer(fresh, store, PIECES)
    await scorer(QUERIES)
    store._db.execute("DELETE FROM scores WHERE key NOT IN (SELECT key FROM scores LIMIT 47)")
    resumed = TableEndpoint()
    await Scorer(resumed, store, PIECES)(QUERIES)
    (asked,) = resumed.asked
    owed = [
        prefix
        for kind, prefix in fresh.events
        if kind == "warm" and asked.prompt[: len(prefix)] == prefix
    ]
    assert [prefix for kind, prefix in resumed.events if kind == "warm"] == owed


async def test_few_reads_are_in_flight_at_a_time(store: ScoreStore) -> None:
    class Counting(TableEndpoint):
        now = most = 0

        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            self.now += len(reads)
            self.most = max(self.most, self.now)
            answers = await super().read(reads, lane=lane)
            self.now -= len(reads)
            return answers

    endpoint = Counting()
    await Scorer(endpoint, store, PIECES, group_size=2, reads_in_flight=6)(QUERIES)
    assert 4 <= endpoint.most <= 6


async def test_progress_rises_from_the_store_to_the_total(store: ScoreStore, lanes: int) -> None:
    await Scorer(TableEndpoint(), store, PIECES)(QUERIES[:3])
    seen: list[ScoringProgress] = []
    endpoint = TableEndpoint(lanes=lanes)
    await Scorer(endpoint, store, PIECES, on_progress=seen.append)(QUERIES)
    assert seen[0] == (6, 48, 6)
    assert seen[-1] == (48, 48, 6)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert len(seen) == 1 + len(endpoint.groups)


async def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_sent(
    store: ScoreStore,
) -> None:
    endpoint = TableEndpoint()
    long = Query(FOLDS[0] * 12, 3)
    # 12 * (96 prompt + 9 label and separator ids) + BOS + target + the label's first token
    with pytest.raises(PromptTooLong, match=r"item 3 .* fewer demos .* with 72 demos") as caught:
        await Scorer(endpoint, store, PIECES)([*QUERIES, long])
    assert f"{len(prompt_ids(PIECES, long)) + 1} tokens" in str(caught.value)
    assert "room for 999" in str(caught.value)
    assert endpoint.events == []


@pytest.mark.parametrize(
    ("log_probs", "error"),
    [
        ((-1.0,), MalformedAnswer),
        ((-1.0, float("nan")), ScoreNotFinite),
        ((-1.0, 0.5), ScoreNotFinite),
    ],
)
async def test_an_answer_that_is_none_never_enters_the_store(
    store: ScoreStore, lanes: int, log_probs: tuple[float, ...], error: type[Exception]
) -> None:
    class Wrong(TableEndpoint):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            return [Answer(log_probs, Exactness.EXACT)] * len(reads) if reads or lane else []

    with pytest.raises(error):
        await Scorer(Wrong(lanes=lanes), store, PIECES)(QUERIES)
    assert store._db.execute("SELECT count(*) FROM scores").fetchone() == (0,)


async def test_too_few_answers_are_refused(store: ScoreStore) -> None:
    class Short(TableEndpoint):
        async def read(self, reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
            return (await super().read(reads, lane=lane))[1:]

    with pytest.raises(MalformedAnswer, match="answers to"):
        await Scorer(Short(), store, PIECES)(QUERIES)


async def test_a_prefix_that_cannot_be_warmed_costs_no_score(
    store: ScoreStore,
) -> None:
    class Cold(TableEndpoint):
        async def warm(self, prefix: TokenIds, *, lane: int | None = None) -> None:
            raise EndpointFault(f"{len(prefix)} {lane}")

    np.testing.assert_array_equal(await Scorer(Cold(), store, PIECES)(QUERIES), expected())


async def test_labels_of_which_one_begins_another_are_refused(store: ScoreStore) -> None:
    pieces = Pieces((1,), ((10,),), ((5,), (5, 6)), (3,), (" a", " ab"))
    with pytest.raises(TaskError, match="' a' and ' ab' cannot be told apart"):
        Scorer(TableEndpoint(), store, pieces)
