"""Every row of docs/faults.md, met by the whole client: transport, vLLM endpoint, scorer, store."""

import gzip
import json
import random
import re
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from planted_run import (
    GROUP_SIZE,
    LABELS,
    PROMPTS,
    QUERIES,
    assert_nothing_lost_or_invented,
    concept,
    honest,
    opened,
    quick,
    read_through,
    scores,
    settings,
)

from icm_client.coherence.fast import search
from icm_client.coherence.problem import Problem
from icm_client.coherence.settings import SweepSettings
from icm_client.endpoints import Answer, Read
from icm_client.endpoints.protocol import TokenIds
from icm_client.endpoints.settings import GoodNeighbour, TransportSettings, Waiting
from icm_client.errors import (
    AuthenticationRefused,
    EndpointFault,
    EndpointOverloaded,
    EndpointTimeout,
    EndpointUnreachable,
    IcmError,
    LabelMissing,
    MalformedAnswer,
    ModelChanged,
    ModelNotFound,
    PromptTooLong,
    RequestRefused,
    RunStopped,
    ScoreNotFinite,
)
from icm_client.scoring import Scorer, ScoreStore, tokenize_pieces
from icm_client.testing import (
    Asked,
    Fault,
    PlantedServer,
    RateLimit,
    after,
    answering,
    changed,
    drip,
    error_200,
    hang,
    redirect,
    reset,
    scripted,
    short_body,
    sometimes,
    status,
    truncating,
    with_log_prob,
    without_label,
)

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
SOON = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
GONE = "Wed, 21 Oct 2015 07:28:00 GMT"


async def heals(fault: Fault, folder: Path, chosen: TransportSettings | None = None) -> None:
    """The second, third and fifth request meet the fault; every score is right all the same."""
    async with PlantedServer(concept(), faults=[None, fault, fault, None, fault]) as server:
        np.testing.assert_array_equal(
            await read_through(server, folder, chosen), await honest(folder)
        )
        completions = [one for one in server.received if one.path == "/v1/completions"]
        assert len(completions) > 5


async def ends(
    fault: Fault,
    error: type[IcmError],
    folder: Path,
    *,
    match: str | None = None,
    chosen: TransportSettings | None = None,
    after_requests: int = 2,
) -> str:
    """The fault from the third request on ends the run with `error`, and costs no answer."""
    async with PlantedServer(concept(), faults=after(after_requests, fault)) as server:
        with pytest.raises(error, match=match) as caught:
            await read_through(server, folder, chosen)
        assert type(caught.value) is error
        await assert_nothing_lost_or_invented(server, folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "0.02"}, 0.02),
        ({"Retry-After": "300"}, 0.05),
        ({"retry-after-ms": "20"}, 0.02),
        ({"Retry-After": "20ms"}, 0.02),
        ({"Retry-After": "1m30s"}, 0.05),
        ({"Retry-After": SOON}, 0.05),
        ({"Retry-After": GONE}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 0.05),
    ],
)
async def test_429_with_each_spelling_of_retry_after(
    tmp_path: Path, headers: dict[str, str], seconds: float
) -> None:
    told: list[Waiting] = []

    def observe(event: Any) -> None:
        if isinstance(event, Waiting):
            told.append(event)

    await heals(status(429, "slow down", headers), tmp_path, settings(observe))
    assert [wait.seconds for wait in told] == [pytest.approx(seconds)] * 3
    assert all(wait.asked_by_server and "slow down" in wait.reason for wait in told)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "burst"), [(503, 0), (503, 2), (429, 0)])
async def test_a_server_that_counts_requests_spends_them_on_scores(code: int, burst: int) -> None:
    """Behind nginx's `limit_req`, 0 to 17% of what was let through were scores."""
    learning_s, seconds = 6.0, 6.0
    limit = RateLimit(20.0, burst=burst, status=code)
    reads = [Read(prompt, (2, 3)) for prompt in await prompts_of_rows()]
    scored_at: list[float] = []
    async with PlantedServer(concept(), rate_limit=limit) as server, opened(server) as endpoint:

        async def work() -> None:
            while True:
                await endpoint.read([reads[len(scored_at) % len(reads)]])
                scored_at.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(work)
            await anyio.sleep(learning_s)
            scores, let_through = len(scored_at), len(server.received)
            await anyio.sleep(seconds)
            scores, let_through = len(scored_at) - scores, len(server.received) - let_through
            tasks.cancel_scope.cancel()
        assert scores >= max(12, 0.8 * let_through)  # how many more depends on the machine
        assert server.refused < len(scored_at) / 2


async def prompts_of_rows() -> list[TokenIds]:
    return [await concept().tokenize(prompt, add_special=True) for prompt in PROMPTS]


def looks(server: PlantedServer) -> int:
    return [one.path for one in server.received].count("/version")


async def test_a_429_is_no_sign_of_a_restart(tmp_path: Path) -> None:
    async with PlantedServer(concept(), faults=[None, *[status(429)] * 3]) as server:
        await read_through(server, tmp_path)
        assert looks(server) == 1  # at the start


@pytest.mark.parametrize("code", [503, 504])
async def test_who_answers_is_asked_once_while_a_server_answers_5xx(
    tmp_path: Path, code: int
) -> None:
    """And once more before the answer that comes at last is taken."""
    alone = TransportSettings(retry=settings(attempts=20).retry, max_in_flight=1)
    async with PlantedServer(concept(), faults=[None, *[status(code)] * 12]) as server:
        np.testing.assert_array_equal(
            await read_through(server, tmp_path, alone), await honest(tmp_path)
        )
        assert looks(server) == 3


async def test_another_model_after_the_look_is_found_before_its_answer_is_taken(
    tmp_path: Path,
) -> None:
    alone = TransportSettings(retry=settings(attempts=20).retry, max_in_flight=1)
    async with PlantedServer(concept()) as server:

        async def swapped(asked: Asked) -> Any:
            server.swap(concept(seed=1))
            return await status(503)(asked)

        server.script = scripted([None, None, status(503), swapped, status(503)])
        with pytest.raises(ModelChanged, match="run the same command again"):
            await read_through(server, tmp_path, alone)
        server.swap(concept())
        await assert_nothing_lost_or_invented(server, tmp_path)


async def test_a_stop_sends_nothing_more_and_keeps_what_is_under_way(tmp_path: Path) -> None:
    """Requests that wait for their turn when it comes were all sent, one after the other."""
    answered: list[int] = []
    chosen = TransportSettings(max_in_flight=2, stopping=lambda: len(answered) >= 3)
    async with PlantedServer(concept(), latency_s=0.05) as server, opened(server, chosen) as there:
        with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
            pieces = await tokenize_pieces(PROMPTS, LABELS, "\n\n", there, store)
            scorer = Scorer(
                there,
                store,
                pieces,
                group_size=1,
                on_progress=lambda now: answered.append(now.done) if now.done else None,
                stopping=chosen.stopping,
            )
            with pytest.raises(RunStopped):
                await scorer(QUERIES)
        sent = sum(one.body.get("logprobs") == 1 for one in server.received)
        assert scorer.stats.asked == sent <= 4
        await assert_nothing_lost_or_invented(server, tmp_path)


async def test_a_stop_does_not_wait_for_a_read_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of thousands of tokens takes a CPU most of a minute."""
    monkeypatch.setattr("icm_client.scoring.execute.GRACE_S", 0.2)
    answered: list[int] = []
    async with PlantedServer(concept(), faults=after(4, hang())) as server:
        async with opened(server) as there:
            with ScoreStore.open(tmp_path / "scores.sqlite3") as store:
                pieces = await tokenize_pieces(PROMPTS, LABELS, "\n\n", there, store)
                scorer = Scorer(
                    there,
                    store,
                    pieces,
                    group_size=GROUP_SIZE,
                    on_progress=lambda now: answered.append(now.done) if now.done else None,
                    stopping=lambda: bool(answered),
                )
                with anyio.fail_after(10), pytest.raises(RunStopped):
                    await scorer(QUERIES)
        assert scorer.stats.asked
        await assert_nothing_lost_or_invented(server, tmp_path)


async def test_503_bursts(tmp_path: Path) -> None:
    burst = [status(503)] * 3
    async with PlantedServer(concept(), faults=[*burst, None, *burst, None]) as server:
        np.testing.assert_array_equal(await read_through(server, tmp_path), await honest(tmp_path))


@pytest.mark.parametrize("code", [500, 502, 504, 599])
async def test_5xx_for_ever(tmp_path: Path, code: int) -> None:
    await ends(status(code), EndpointFault, tmp_path, match=rf"{code}.*gave up after 4 attempts")


async def test_429_and_503_for_ever(tmp_path: Path) -> None:
    for code in (429, 503):
        (folder := tmp_path / f"{code}").mkdir()
        await ends(status(code), EndpointOverloaded, folder, match="gave up after 4 attempts")


@pytest.mark.parametrize("fault", [reset(), reset(after_bytes=40)], ids=["before", "in"])
async def test_reset_before_and_in_the_body(tmp_path: Path, fault: Fault) -> None:
    await heals(fault, tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    await ends(fault, EndpointUnreachable, folder, match="gave up after 4 attempts")


async def test_short_body(tmp_path: Path) -> None:
    await heals(short_body(40), tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    await ends(short_body(40), EndpointUnreachable, folder, match="gave up after 4 attempts")


BROKEN = {
    "truncated": answering('{"choices": [{"index": 0, "logpr'),
    "huge": answering(b'{"choices": [' + b" " * 300_000),
    "zip bomb": answering(gzip.compress(b" " * 5_000_000), headers={"Content-Encoding": "gzip"}),
    "no zip": answering("not gzip", headers={"Content-Encoding": "gzip"}),
    "deep": answering(b"[" * 100_000),
    "not UTF-8": answering(b'{"choices": "\xff\xfe\xfa"}'),
    "UTF-16": answering('{"choices": []}'.encode("utf-16")),
    "nothing": answering(""),
    "null": answering("null"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_truncated_huge_deep_or_mis_encoded_json(tmp_path: Path, name: str) -> None:
    await heals(BROKEN[name], tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    await ends(BROKEN[name], MalformedAnswer, folder, match="gave up after 3 attempts")


@pytest.mark.parametrize("code", [200, 400, 500])
async def test_a_deep_or_huge_body_of_an_error_is_told_in_short(tmp_path: Path, code: int) -> None:
    for body in (b"[" * 100_000, b'{"error": {"message": "' + b"x" * 3_000_000):
        async with PlantedServer(concept(), faults=after(0, status(code, body))) as server:
            with pytest.raises(IcmError) as caught:
                await read_through(server, tmp_path)
        assert len(str(caught.value)) < 800


async def test_html_with_200(tmp_path: Path) -> None:
    page = answering("<html>\x1b[31mlogin</html>", headers={"Content-Type": "text/html"})
    await heals(page, tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    told = await ends(page, MalformedAnswer, folder, match="a web page came.*login'")
    assert not {"\x1b", "<"} & set(told)


async def test_error_with_200(tmp_path: Path) -> None:
    await heals(error_200(), tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    await ends(error_200(), MalformedAnswer, folder, match="out of memory")


async def test_empty_missing_or_doubled_choices(tmp_path: Path) -> None:
    def empty(answer: dict[str, Any]) -> None:
        answer["choices"] = []

    def missing(answer: dict[str, Any]) -> None:
        del answer["choices"][-1]

    def doubled(answer: dict[str, Any]) -> None:
        answer["choices"].append(answer["choices"][0])

    for number, change in enumerate((empty, missing, doubled)):
        (healing := tmp_path / f"{number}").mkdir()
        await heals(changed(change), healing)
        (folder := tmp_path / f"{number} for ever").mkdir()
        await ends(changed(change), MalformedAnswer, folder, match="choices")


async def test_reordered_choices_are_put_back(tmp_path: Path) -> None:
    mirrored = changed(lambda answer: answer["choices"].reverse())
    async with PlantedServer(concept(), faults=after(0, mirrored)) as server:
        np.testing.assert_array_equal(await read_through(server, tmp_path), await honest(tmp_path))


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("null", ScoreNotFinite),
        ("NaN", ScoreNotFinite),
        ("Infinity", ScoreNotFinite),
        ("-Infinity", ScoreNotFinite),
        ("0.5", ScoreNotFinite),
        ("-9999.0", ScoreNotFinite),
        ("1e999", ScoreNotFinite),
        ('"high"', MalformedAnswer),
        ("[]", MalformedAnswer),
    ],
)
async def test_what_is_no_log_prob(tmp_path: Path, written: str, error: type[IcmError]) -> None:
    await heals(with_log_prob(written), tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    await ends(with_log_prob(written), error, folder, match="gave up after 3 attempts")


async def test_a_missing_label_id(tmp_path: Path) -> None:
    await ends(without_label(), LabelMissing, tmp_path, match="logprob_token_ids")


async def test_the_contamination_of_a_neighbour(tmp_path: Path) -> None:
    """vLLM's V1 runner pads one prompt of a batch; the others are sound, and none is trusted."""

    def pad_last(answer: dict[str, Any]) -> None:
        found = answer["choices"][-1]["logprobs"]["top_logprobs"][0]
        found.update(dict.fromkeys(found, -9999.0))

    def pad_reads(answer: dict[str, Any]) -> None:
        if answer["choices"][-1]["logprobs"]:
            pad_last(answer)

    await heals(changed(pad_reads), tmp_path)
    (folder := tmp_path / "for ever").mkdir()
    await ends(changed(pad_reads), ScoreNotFinite, folder, match=r"-9999\.0")


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ("This model's maximum context length is 4096 tokens", PromptTooLong, "4096 tokens$"),
        ("Out of range float values are not JSON compliant: nan", ScoreNotFinite, "3 attempts"),
    ],
)
async def test_400_for_a_long_prompt_and_for_nan(
    tmp_path: Path, words: str, error: type[IcmError], told: str
) -> None:
    body = json.dumps({"error": {"message": words, "type": "BadRequestError", "code": 400}})
    await ends(status(400, body), error, tmp_path, match=told)


@pytest.mark.parametrize(
    "refusal", [status(402, "no"), status(429, '{"error": {"type": "insufficient_quota"}}')]
)
async def test_an_account_without_credit_ends_the_run(tmp_path: Path, refusal: Fault) -> None:
    await ends(refusal, AuthenticationRefused, tmp_path, match="the account has no credit left")


async def test_404_lists_the_models(tmp_path: Path) -> None:
    words = '{"error": {"message": "The model `planted` does not exist."}}'
    await ends(status(404, words), ModelNotFound, tmp_path, match="the server has: planted")


@pytest.mark.parametrize("sign", [status(503), reset()], ids=["503", "reset"])
async def test_a_model_swapped_in_mid_run(tmp_path: Path, sign: Fault) -> None:
    one_at_a_time = TransportSettings(retry=settings().retry, max_in_flight=1)
    async with PlantedServer(concept()) as server:

        async def swapped(asked: Asked) -> Any:
            server.swap(concept(seed=1))
            return await sign(asked)

        server.script = scripted([None, None, swapped])
        with pytest.raises(ModelChanged, match="run the same command again"):
            await read_through(server, tmp_path, one_at_a_time)
        assert sum(one.path == "/v1/completions" for one in server.received) == 3
        server.swap(concept())
        await assert_nothing_lost_or_invented(server, tmp_path)


async def test_another_model_after_a_restart(tmp_path: Path) -> None:
    reached = anyio.Event()

    async def held(_: Asked) -> Any:
        reached.set()
        await anyio.sleep_forever()

    async with PlantedServer(concept(), faults=[None, held]) as server:
        async with anyio.create_task_group() as tasks:

            async def restart() -> None:
                await reached.wait()
                server.swap(concept(seed=1))
                await server.restart(down_s=0.1)

            tasks.start_soon(restart)
            chosen = settings(attempts=50, initial_wait_s=0.05, maximum_wait_s=0.1)
            with pytest.raises(ModelChanged):
                await read_through(server, tmp_path, chosen)
        server.swap(concept())
        await assert_nothing_lost_or_invented(server, tmp_path)


async def test_another_model_after_a_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restarted while nothing was asked: no request failed, and a new connection is no sign."""
    async with PlantedServer(concept()) as server, opened(server) as endpoint:
        await scores(endpoint, tmp_path)
        server.swap(concept(seed=1))
        await server.restart()
        monkeypatch.setattr("icm_client.endpoints.identity_check.SILENCE_S", 0.0)
        (other := tmp_path / "other").mkdir()
        with pytest.raises(ModelChanged):
            await scores(endpoint, other)
        assert sum(one.path == "/v1/completions" for one in server.received) < 25


async def test_a_model_swapped_without_a_sign_is_found_in_time(tmp_path: Path) -> None:
    """Behind a gateway, say. Who keeps the answers is told which of them are in doubt."""
    chosen = TransportSettings(retry=settings().retry, identity_interval_s=0.0)
    async with PlantedServer(concept()) as server:
        swapped_at: list[float] = []

        async def swapped(asked: Asked) -> Any:
            server.swap(concept(seed=1))
            swapped_at.append(anyio.current_time())
            return await answering(json.dumps(await asked.honest(asked.body)))(asked)

        server.script = scripted([None, None, swapped])
        with pytest.raises(ModelChanged) as caught:
            await read_through(server, tmp_path, chosen)
        assert caught.value.last_confirmed_at < swapped_at[0]


@pytest.mark.parametrize("sign", [reset(), None], ids=["reset", "none"])
async def test_other_weights_in_mid_run_behind_the_same_words(
    tmp_path: Path, sign: Fault | None
) -> None:
    """The path of the latest weights: what it says of itself stays the same."""
    interval_s = 60.0 if sign else 0.0
    chosen = TransportSettings(
        retry=settings().retry, max_in_flight=1, identity_interval_s=interval_s
    )
    async with PlantedServer(concept(), root="models/latest") as server:

        async def swapped(asked: Asked) -> Any:
            server.swap(concept(seed=1, meaning=3.0))
            if sign is not None:
                return await sign(asked)
            return await answering(json.dumps(await asked.honest(asked.body)))(asked)

        numbers = iter(range(1000))
        before = 3 if sign else 9  # with no interval, every read is followed by a comparison
        server.script = lambda _: swapped if next(numbers) == before else None
        with pytest.raises(ModelChanged, match=r"weights have changed in mid-run.*nats away"):
            await read_through(server, tmp_path, chosen)
        server.swap(concept())
        await assert_nothing_lost_or_invented(server, tmp_path)


async def test_a_server_that_truncates_silently(tmp_path: Path) -> None:
    await ends(truncating(30), PromptTooLong, tmp_path)


async def test_a_restart_in_mid_run(tmp_path: Path) -> None:
    reached = anyio.Event()

    async def held(_: Asked) -> Any:
        reached.set()
        await anyio.sleep_forever()

    async with PlantedServer(concept(), faults=[None, held]) as server:
        async with anyio.create_task_group() as tasks:

            async def restart() -> None:
                await reached.wait()
                await server.restart(down_s=0.1)

            tasks.start_soon(restart)
            chosen = settings(attempts=50, initial_wait_s=0.05, maximum_wait_s=0.1)
            found = await read_through(server, tmp_path, chosen)
        np.testing.assert_array_equal(found, await honest(tmp_path))


async def test_a_hang(tmp_path: Path) -> None:
    chosen = quick(settings(attempts=2), 0.8)
    words = r"no complete answer in 0\.8 s"
    await ends(hang(), EndpointTimeout, tmp_path, match=words, chosen=chosen)


async def test_one_byte_a_second(tmp_path: Path) -> None:
    chosen = quick(settings(attempts=2), 0.8)
    await ends(drip(0.1), EndpointTimeout, tmp_path, match=r"0\.8 s", chosen=chosen)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects(tmp_path: Path, code: int) -> None:
    async with PlantedServer(concept()) as elsewhere:
        to = f"{elsewhere.url}/v1/completions"
        await ends(redirect(to, code), RequestRefused, tmp_path, match="redirects are not followed")
        assert elsewhere.received == []


async def test_a_cancelled_run(tmp_path: Path) -> None:
    async with PlantedServer(concept(), faults=after(3, hang())) as server:
        with anyio.move_on_after(1.0) as scope:
            await read_through(server, tmp_path)
        assert scope.cancelled_caught
        await assert_nothing_lost_or_invented(server, tmp_path)


CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import anyio
from icm_client.endpoints import Transport, TransportSettings

async def main(url):
    answers = []
    async def ask():
        answers.append(await transport.post("/tokenize", {"prompt": "a b"}, bytes))
    async with Transport(url, settings=TransportSettings(max_in_flight=10_000)) as transport:
        async with anyio.create_task_group() as tasks:
            for _ in range(10_000):
                tasks.start_soon(ask)
        print(len(answers), transport.usage.retries, transport.in_flight_limit)

anyio.run(main, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
async def test_10000_queued_and_256_descriptors() -> None:
    async with PlantedServer(concept()) as server:
        with anyio.fail_after(180):
            child = await anyio.run_process([sys.executable, "-c", CHILD, server.url])
        answers, retries, limit = map(int, child.stdout.split())
    assert (answers, retries) == (10_000, 0)
    assert limit <= 128


async def test_answers_that_are_kept_while_others_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with PlantedServer(concept()) as server, opened(server) as endpoint:
        ids = [await endpoint.tokenize(prompt, add_special=True) for prompt in PROMPTS]
        wanted = (await endpoint.tokenize(LABELS[0], add_special=False))[:1]
        reads = [Read(prompt, wanted) for prompt in ids]
        (answer,) = await endpoint.read(reads[:1])
        asked_again = endpoint._asked_again

        async def meanwhile(read: Read) -> Answer:
            endpoint._keep(reads[1:3], [answer, answer])
            return await asked_again(read)

        monkeypatch.setattr(endpoint, "_asked_again", meanwhile)
        assert await endpoint._nats_apart() == 0


async def test_a_whole_search_through_every_fault_that_heals(tmp_path: Path) -> None:
    """Its labels and log-probs are those of a search that met none."""
    rng = random.Random(7)
    faults = [
        status(429, headers={"Retry-After": "5ms"}),
        status(503),
        status(500),
        reset(),
        reset(after_bytes=20),
        short_body(20),
        answering("<html>"),
        error_200(),
        with_log_prob("-9999.0"),
        with_log_prob("NaN"),
        changed(lambda answer: answer["choices"].clear()),
    ]

    async def any_of_them(asked: Asked) -> Any:
        return await rng.choice(faults)(asked)

    async def found(endpoint: Any, name: str) -> Any:
        with ScoreStore.open(tmp_path / name) as store:
            pieces = await tokenize_pieces(PROMPTS, LABELS, "\n\n", endpoint, store)
            return await search(
                Problem(len(PROMPTS), 2),
                Scorer(endpoint, store, pieces, group_size=3),
                rng=np.random.default_rng(0),
                settings=SweepSettings(initial=4, demos=6, max_sweeps=6),
            )

    expected = await found(concept(), "honest.sqlite3")
    chosen = settings(attempts=60, bad_answers=30)
    async with PlantedServer(concept(), faults=sometimes(0.4, any_of_them, rng)) as server:
        with anyio.fail_after(60):
            async with opened(server, chosen) as endpoint:
                result = await found(endpoint, "faulty.sqlite3")
                assert endpoint.usage.retries > 10
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_array_equal(result.log_probs, expected.log_probs)


def rows() -> list[tuple[str, list[str]]]:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    lines = [line for line in lines if not line.startswith(("| what happens |", "| --- |"))]
    return [(line.split("|")[1].strip(), re.findall(r"`(test_\w+)`", line)) for line in lines]


def test_every_row_of_the_page_names_its_test_and_every_test_has_a_row() -> None:
    defined = {
        name
        for path in Path(__file__).parents[1].rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = [name for _, names in rows() for name in names]
    assert len(rows()) > 20
    assert [row for row, names in rows() if not names] == []
    assert set(named) <= defined
    own = re.findall(r"^async def (test_\w+)", Path(__file__).read_text("utf-8"), re.MULTILINE)
    assert set(own) <= set(named)


@pytest.mark.parametrize("priorities", [True, False])
async def test_a_good_neighbour_is_served_after_everybody_else(
    tmp_path: Path, priorities: bool
) -> None:
    """Where the server knows priorities; where not, it is told none and answers all the same."""
    chosen = TransportSettings(retry=settings().retry, good_neighbour=GoodNeighbour())
    async with PlantedServer(concept(), priorities=priorities) as server:
        found = await read_through(server, tmp_path, chosen)
        np.testing.assert_array_equal(found, await honest(tmp_path))
        sent = [
            one.body.get("priority") for one in server.received if one.path == "/v1/completions"
        ]
        assert (set(sent) == {100}) == priorities
        assert sent[-1] == (100 if priorities else None)
