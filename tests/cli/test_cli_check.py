"""`icm-client check` against a vLLM-like server in this process, whose behaviour a test chooses."""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from icm_client.cli.check import check_command
from icm_client.runs.check import check as run_check

TASK = 'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
PADDED = -9999.0


@dataclass(slots=True)
class Behaviour:
    """What the server does; the attributes are read at each request."""

    owner: str = "vllm"
    context: int = 4096
    caches: bool = True
    ignores_ids: bool = False
    scales: float | None = None  # what temperature 0 divides log-probs by, where it scales them
    scales_heat: bool = False
    pads_neighbours: bool = False
    cuts_at: int | None = None
    jitter: float = 0.0
    fails_plain: bool = False
    busy_at_first_over: int | None = None  # tokens: a longer prompt is refused, and then taken
    reading: int = 0
    requests: int = 0
    seen: list[list[int]] = field(default_factory=list)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        match path:
            case "/v1/models":
                card = {"id": "base", "owned_by": self.owner, "max_model_len": self.context}
                return 200, {"data": [card]}
            case "/version":
                return 200, {"version": "0.32.0"}
            case "/tokenize":
                ids = [number(word) for word in re.findall(r" ?[^\s]+|\s", body["prompt"])]
                return 200, {"tokens": [1, *ids] if body["add_special_tokens"] else ids}
            case "/v1/completions" if "logprob_token_ids" in body or not self.fails_plain:
                self.requests += 1
                prompt, most = body["prompt"][0], self.busy_at_first_over
                if most is not None and len(prompt) > most and prompt not in self.seen:
                    self.seen.append(prompt)
                    return 503, {}
                return 200, self.completion(body)
        return 404, {"error": {"message": "no such route"}}

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompts = body["prompt"]
        read = sum(min(len(prompt), self.cuts_at or len(prompt)) for prompt in prompts)
        cached = max((common(prompts[-1], old) for old in self.seen), default=0)
        self.seen += prompts
        return {
            "choices": [self.choice(n, p, body) for n, p in enumerate(prompts)],
            "usage": {
                "prompt_tokens": read,
                "prompt_tokens_details": {"cached_tokens": cached // 16 * 16 * self.caches},
            },
        }

    def choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        wanted = body.get("logprob_token_ids")
        if wanted is None or self.ignores_ids:
            value = PADDED if self.pads_neighbours and self.reading else -0.5
            return {"index": index, "logprobs": {"top_logprobs": [{"token_id:5": value}]}}
        found = {f"token_id:{one}": self.log_prob(prompt, one, body) for one in wanted}
        return {"index": index, "logprobs": {"top_logprobs": [found]}}

    def log_prob(self, prompt: list[int], token: int, body: dict[str, Any]) -> float:
        value = -0.5 - number(repr((prompt, token))) % 4000 / 1000
        heat = body["temperature"]
        if heat == 0:
            value /= self.scales or 1.0
        elif self.scales_heat:
            value /= heat
        return value - self.jitter * (self.requests % 2)


def number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=3).digest()) + 2


def common(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
def url(behaviour: Behaviour) -> Iterator[str]:
    """The server, in a thread of its own: the command has the main one."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        behaviour.reading += "logprob_token_ids" in body
        await asyncio.sleep(0.001)
        status, answer = behaviour.answer(request.path, body)
        behaviour.reading -= "logprob_token_ids" in body
        return web.json_response(answer, status=status)

    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


Check = Callable[..., Result]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> Check:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "reviews.toml").write_text(TASK)

    def run(*options: str) -> Result:
        arguments = ["--endpoint", url, "--task", "reviews.toml", *options]
        return CliRunner().invoke(check_command, arguments)

    return run


def observed(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code in {0, 1}, result.output
    return {one["name"]: one for one in json.loads(result.stdout)["observations"]}


def test_a_good_server_is_ready_and_every_question_is_answered(check: Check) -> None:
    result = check("--json", "--rows", "1000")
    found = observed(result)
    assert result.exit_code == 0
    assert list(found) == [
        "server",
        "labels",
        "log-probs",
        "prompts",
        "raw or processed",
        "prefix cache",
        "noise",
        "throughput",
        "neighbours",
    ]
    assert {one["verdict"] for one in found.values()} == {"good"}
    assert found["server"]["figures"]["context_length"] == 4096
    assert found["labels"]["figures"]["tokens_of_positive"] == str(number(" positive"))
    assert found["prompts"]["figures"]["sent"] == found["prompts"]["figures"]["read_tokens"]
    assert found["noise"]["figures"]["noise_nats"] == 0
    assert set(found["throughput"]["figures"]) == {f"at_{n}_a_second" for n in (1, 8, 64)}
    run = json.loads(result.stdout)["run"]
    assert run["rows"] == 1000
    # 3.128 to 31 sweeps, 1,000 reads each: 63 groups of 16 and 2 contexts. The fewest: 3 sweeps,
    # and names tried for 128 rows. The most: 2 starts of 10, names tried in both folds, and 5
    # sweeps under both names.
    assert run["requests"] == [203, 2013]
    assert 0 < run["minutes"][0] < run["minutes"][1]


def test_the_check_stays_within_what_it_says_first(check: Check, behaviour: Behaviour) -> None:
    result = check()
    assert result.stderr.startswith("The check sends about 250 short requests")
    assert "Checking: noise" in result.stderr
    assert 200 < behaviour.requests <= 262
    assert result.stdout.rstrip().endswith("Ready.")


def test_a_server_that_ignores_the_ids_is_not_ready(check: Check, behaviour: Behaviour) -> None:
    behaviour.ignores_ids = True
    result = check()
    assert result.exit_code == 1
    assert "Not ready:" in result.stdout
    assert "logprob_token_ids" in result.stdout.partition("Not ready:")[2]
    assert behaviour.requests < 5  # what would fail the same way is not asked


def test_log_probs_that_the_server_warps_are_found(check: Check, behaviour: Behaviour) -> None:
    behaviour.scales = 0.5
    result = check("--json")
    assert result.exit_code == 1
    assert observed(result)["raw or processed"]["verdict"] == "bad"


def test_a_server_that_scales_by_temperature_is_no_hindrance_at_one(
    check: Check, behaviour: Behaviour
) -> None:
    behaviour.scales_heat = True
    result = check("--json")
    assert result.exit_code == 0
    assert observed(result)["raw or processed"]["says"].startswith("processed, but")


def test_a_prompt_that_is_cut_without_a_word_is_found(check: Check, behaviour: Behaviour) -> None:
    behaviour.cuts_at = 100
    result = check("--json")
    assert result.exit_code == 1
    assert "cuts prompts without saying so" in observed(result)["prompts"]["says"]


@pytest.mark.slow
def test_a_missing_cache_is_told_and_makes_a_run_dearer(check: Check, behaviour: Behaviour) -> None:
    cached = json.loads(check("--json").stdout)["run"]["computed_tokens"]
    behaviour.caches = False
    result = check("--json")
    assert observed(result)["prefix cache"]["verdict"] == "note"
    assert json.loads(result.stdout)["run"]["computed_tokens"][0] > 5 * cached[0]


def test_noise_is_measured(check: Check, behaviour: Behaviour) -> None:
    behaviour.jitter = 0.01
    figures = observed(check("--json"))["noise"]["figures"]
    assert figures["warm_nats"] == pytest.approx(0.01)


def test_neighbours_that_lose_their_log_probs_are_told(check: Check, behaviour: Behaviour) -> None:
    behaviour.pads_neighbours = True
    result = check("--json")
    found = observed(result)["neighbours"]
    assert result.exit_code == 0
    assert found["verdict"] == "note"
    assert found["figures"]["neighbours_padded"] > 0


def test_a_probe_that_fails_leaves_the_others_alone(check: Check, behaviour: Behaviour) -> None:
    behaviour.fails_plain = True
    result = check("--json")
    found = observed(result)
    assert result.exit_code == 0
    assert found["neighbours"]["says"].startswith("failed:")
    assert found["throughput"]["verdict"] == "good"


def test_a_context_too_short_for_a_run_is_told(check: Check, behaviour: Behaviour) -> None:
    behaviour.context = 16
    result = check("--json")
    assert result.exit_code == 1
    assert "room for one demo" in observed(result)["labels"]["says"]


def test_nobody_there_is_a_verdict_and_no_traceback(check: Check) -> None:
    result = check("--endpoint", "http://127.0.0.1:9", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["reasons"][0].startswith("server: failed:")


def test_what_the_server_says_moves_no_cursor(check: Check, behaviour: Behaviour) -> None:
    behaviour.owner = "\x1b[2Jnobody [red]known[/red]"
    result = check("--kind", "openai")
    assert "\x1b" not in result.output


def test_what_was_sent_again_is_not_taken_for_a_speed(check: Check, behaviour: Behaviour) -> None:
    """A read that timed out, and was answered from the cache when repeated: "31930 minutes"."""
    behaviour.busy_at_first_over = 400
    result = check("--json")
    found = observed(result)["prefix cache"]
    assert "sent again" in found["says"]
    assert (found["verdict"], found["figures"]["cold_s"]) == ("note", None)
    run = json.loads(result.stdout)["run"]
    assert run["minutes"] is None
    assert run["computed_tokens"][1] < 100_000  # the server tells of cached tokens: it caches


@pytest.mark.slow
def test_what_a_run_uploads_is_said(check: Check) -> None:
    result = check("--json", "--rows", "1000")
    prompts = observed(result)["prompts"]
    assert re.search(r", \d+\.\d kB uploaded", prompts["says"])
    least, most = json.loads(result.stdout)["run"]["sent_bytes"]
    a_read = prompts["figures"]["sent_bytes"]
    # 3 to 31 sweeps over 1,000 rows, and a read with fewer demos is shorter.
    assert 1_200 * a_read < least < 3_200 * a_read < most < 32_000 * a_read
    assert re.search(r"\d+ MB to \d+ MB uploaded", check("--rows", "1000").stdout)


def test_parts_are_left_out_where_time_is_short(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm_client.runs.check._SECONDS", 0.0)
    result = check("--json")
    found = observed(result)
    assert result.exit_code == 0
    for name in ("raw or processed", "prefix cache", "noise", "throughput", "neighbours"):
        assert found[name]["says"].startswith("left out")
    assert json.loads(result.stdout)["run"]["minutes"] is None


async def test_a_check_that_is_stopped_says_what_it_has_seen(url: str, tmp_path: Path) -> None:
    (tmp_path / "reviews.toml").write_text(TASK)
    steps: list[str] = []
    report = await run_check(
        task=tmp_path / "reviews.toml",
        endpoint=url,
        step=steps.append,
        stopping=lambda: "throughput" in steps,
    )
    names = [one.name for one in report.observations]
    assert names[:3] == ["server", "labels", "log-probs"]
    assert names[-1] == "check"
    assert not report.ready
    assert "stopped before its end" in report.reasons[-1]
    assert report.requests > 0


def test_rows_of_the_run_may_be_given(check: Check, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"words of row {n}"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    result = check("--data", "rows.jsonl", "--json")
    assert json.loads(result.stdout)["run"]["rows"] == 40


def test_without_a_task_a_few_requests_say_who_serves_and_what_to_do_next(
    url: str, behaviour: Behaviour
) -> None:
    result = CliRunner().invoke(check_command, [url, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    found = observed(result)
    assert list(found) == ["server", "log-probs", "prompts", "raw or processed"]
    assert found["server"]["says"] == "base on vllm, context 4,096 tokens"
    assert found["log-probs"]["figures"]["exactness"] == "exact"
    assert told["run"] is None
    assert [one["command"] for one in told["next"]] == [
        "icm-client tasks init DATA",
        f"icm-client check -e {url} --data DATA",
        f"icm-client label DATA -o labels.jsonl -e {url}",
    ]
    assert behaviour.requests < 10
    printed = CliRunner().invoke(check_command, ["--endpoint", url])
    assert printed.stdout.index("Ready.") < printed.stdout.index("icm-client tasks init DATA")


def test_without_a_task_a_server_without_log_probs_is_not_ready(
    url: str, behaviour: Behaviour
) -> None:
    behaviour.ignores_ids = True
    result = CliRunner().invoke(check_command, [url])
    assert result.exit_code == 1
    assert "Not ready:" in result.stdout
    assert "icm-client serve MODEL" in result.stdout


def test_a_server_that_is_named_twice_is_a_usage_matter(url: str) -> None:
    result = CliRunner().invoke(check_command, [url, "--endpoint", url])
    assert result.exit_code == 2
    assert "named twice" in result.output


def test_rows_without_a_task_are_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    result = CliRunner().invoke(check_command, [url, "--data", "rows.jsonl"])
    assert result.exit_code == 1
    assert "no task" in str(result.exception)


def test_template_labels_and_a_sample_of_the_rows(url: str, tmp_path: Path) -> None:
    lines = [json.dumps({"words": f"row {n}"}) for n in range(40)]
    (tmp_path / "rows.txt").write_text("\n".join(lines))
    asked = ("--template", "{words}:", "--labels", "yes,no", "--format", "jsonl", "--limit", "30")
    result = CliRunner().invoke(check_command, [url, "-d", "rows.txt", *asked, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["run"]["rows"] == 30
