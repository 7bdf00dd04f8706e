"""The paper's checks run whole, against a planted server, and say what they measured."""

import importlib
import json
import random
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from click.testing import CliRunner

from icm_client.cli.main import main
from icm_client.cli.serve import serve_command
from icm_client.data.job import Job
from icm_client.errors import EndpointFault, IcmError, InputError
from icm_client.testing import PlantedConcept, PlantedServer

FOLDER = Path(__file__).parents[2] / "examples" / "replication"
README = FOLDER / "README.md"
Serve = Callable[..., PlantedServer]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as running:
        yield running


@pytest.fixture
def serve(portal: BlockingPortal) -> Iterator[Serve]:
    """Serve prompts with their classes, for as long as the test lasts."""
    open_servers: list[AbstractContextManager[Any]] = []

    def start(planted: Mapping[str, int], **taste: Any) -> PlantedServer:
        concept = PlantedConcept(planted, (" True", " False"), **taste)
        server = PlantedServer(concept)
        managed = portal.wrap_async_context_manager(server)
        managed.__enter__()
        open_servers.append(managed)
        return server

    yield start
    for managed in open_servers:
        managed.__exit__(None, None, None)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def ran(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON that a check prints, and what it tells beside it."""
    done = CliRunner().invoke(script(name).check, [*arguments, "--json"])
    assert done.exception is None, done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def means(document: dict[str, Any]) -> dict[str, float]:
    return {figure["name"]: figure["mean"] for figure in document["figures"]}


def papers(document: dict[str, Any]) -> dict[str, str | None]:
    return {figure["name"]: figure["paper"] for figure in document["figures"]}


def scored(server: PlantedServer) -> int:
    return sum(received.path == "/v1/completions" for received in server.received)


def planted_claims(*templates: str) -> dict[str, int]:
    """The sample's claims as each template shows them, true ones in class 0."""
    claims = script("truthfulqa").read_claims(script("truthfulqa").SAMPLE)
    return {
        template.format(question=claim.question, claim=claim.claim): int(claim.label == "False")
        for claim in claims
        for template in templates
    }


SMALL = ("--train", "24", "--test", "12")


@pytest.mark.slow
def test_truthfulqa_has_four_bars_beside_the_papers(serve: Serve, tmp_path: Path) -> None:
    truthfulqa = script("truthfulqa")
    server = serve(planted_claims(truthfulqa.ASKED.template), meaning=1.0, bias=(2.5, 0.0))
    sample = str(truthfulqa.SAMPLE)
    arguments = (sample, "-e", server.url, *SMALL, "--seeds", "2", "--out", "four.json")
    document, told = ran("truthfulqa", *arguments)
    assert papers(document) == {
        "zero-shot": "60.2",
        "zero-shot-chat": "74.0",
        "icm": "90.9",
        "icm: its labels of the train claims": None,
        "golden": "92.1",
    }
    found = means(document)
    assert found["golden"] >= 0.9 <= found["icm"]
    assert found["zero-shot"] < 0.8  # the planted taste for "True" is stronger than the words
    assert document["ran"]["train"] == 24
    assert len(document["figures"][0]["measured"]) == 2
    assert json.loads((tmp_path / "four.json").read_text()) == document
    assert re.search(r"Forecast for all seeds together\. A run over 36 rows: [\d,]+ to", told)


@pytest.mark.slow
def test_truthfulqa_goes_on_from_the_store(serve: Serve) -> None:
    truthfulqa = script("truthfulqa")
    server = serve(planted_claims(truthfulqa.ASKED.template))
    arguments = (str(truthfulqa.SAMPLE), "-e", server.url, *SMALL, "--seeds", "1")
    first, told = ran("truthfulqa", *arguments)
    at_first = sum(computed(told))
    assert ran_forecast("truthfulqa", *arguments).startswith("Forecast")
    again, told = ran("truthfulqa", *arguments)
    # A few reads of the search and of the bars, which show that it is the same model still: of so
    # small a run, they are a third.
    assert 0 < sum(computed(told)) < at_first / 2
    assert again == first


def computed(told: str) -> list[int]:
    """The tokens that the server computed for each bar."""
    found = re.findall(r"seed 0: .*?([\d,]+) tokens computed", told)
    return [int(number.replace(",", "")) for number in found]


def ran_forecast(name: str, *arguments: str) -> str:
    done = CliRunner().invoke(script(name).check, [*arguments, "--forecast"])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    return done.stderr


def test_a_chat_model_of_its_own_is_asked_as_a_chat(serve: Serve) -> None:
    truthfulqa = script("truthfulqa")
    base = serve(planted_claims(truthfulqa.ASKED.template))
    chat = serve(planted_claims(truthfulqa.LLAMA_3_CHAT), meaning=4.0)
    document, _ = ran(
        "truthfulqa",
        *(str(truthfulqa.SAMPLE), "-e", base.url, *SMALL, "--seeds", "1"),
        *("--chat-endpoint", chat.url),
    )
    names = [figure["name"] for figure in document["figures"]]
    assert names[:2] == ["zero-shot", "zero-shot-chat"]
    assert len(names) == len(set(names)) == 5
    assert means(document)["zero-shot-chat"] == 1.0
    assert scored(chat) > 0
    assert truthfulqa.CHAT_NOTE not in document["notes"]


def test_no_question_is_trained_on_and_tested_on() -> None:
    truthfulqa = script("truthfulqa")
    claims = truthfulqa.read_claims(truthfulqa.SAMPLE)
    sizes = truthfulqa.Sizes(30, 20)
    drawn = truthfulqa.draw_all(claims, claims, sizes, 5)
    questions = [row.fields["question"] for row in drawn.job.dataset.rows]
    trains = set()
    for split in drawn.splits:
        assert (len(split.train), len(split.test)) == sizes
        assert not {questions[row] for row in split.train} & {questions[row] for row in split.test}
        trains.add(tuple(split.train))
    assert len(trains) == 5
    by_unit = Counter(zip(drawn.questions.tolist(), questions, strict=True))
    assert len(by_unit) == len(set(questions))


def test_more_claims_than_there_are_is_said(serve: Serve) -> None:
    truthfulqa = script("truthfulqa")
    server = serve(planted_claims(truthfulqa.ASKED.template))
    done = CliRunner().invoke(
        truthfulqa.check, [str(truthfulqa.SAMPLE), "-e", server.url, "--full"]
    )
    assert "1000 claims are wanted" in str(done.exception)
    assert scored(server) == 0


def planted_job(job: Job) -> dict[str, int]:
    """Each prompt in the class of its gold label; True is class 0."""
    gold = job.dataset.gold or ()
    return {job.prompts[n]: int(gold[item.row] == "False") for n, item in enumerate(job.items)}


@pytest.mark.slow
def test_without_the_rule_one_label_takes_all(serve: Serve, tmp_path: Path) -> None:
    ablation = script("consistency_ablation")
    job = ablation.both_orders(ablation.SAMPLE, 10)
    server = serve(planted_job(job), strength=3.0, meaning=1.0, bias=(4.0, 0.0))
    sample = (str(ablation.SAMPLE), "-e", server.url, "--rows", "10", "--steps", "60")
    document, told = ran("consistency_ablation", *sample, "--seeds", "1")
    found = means(document)
    assert found["with the rule: rows with the commonest label"] == 0.5
    assert found["with the rule: pairs that contradict themselves"] == 0.0
    assert found["with the rule: labels as people's"] >= 0.8
    assert found["without it: rows with the commonest label"] >= 0.9
    assert found["without it: pairs that contradict themselves"] >= 0.8
    assert papers(document)["with the rule: labels as people's"] == "68.0"
    assert "Forecast for all 2 searches together." in told

    _, told = ran("consistency_ablation", *sample, "--seeds", "1")
    assert told.count("(kept)") == 2
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_pairs_stand_in_both_orders_with_opposite_gold() -> None:
    ablation = script("consistency_ablation")
    job = ablation.both_orders(ablation.SAMPLE, 6)
    gold = dict(zip((row.id for row in job.dataset.rows), job.dataset.gold or (), strict=True))
    fields = {row.id: row.fields for row in job.dataset.rows}
    assert len(gold) == 12
    for name in {str(row).partition(" ")[0] for row in gold}:
        one, other = f"{name} as it stands", f"{name} exchanged"
        assert {gold[one], gold[other]} == {"True", "False"}
        assert fields[one]["response_1"] == fields[other]["response_2"]
    assert len(job.constraint.groups) == 6


@pytest.mark.slow
def test_the_sun_is_not_found_and_the_mood_is(serve: Serve) -> None:
    preference = script("arbitrary_preference")
    pairs = preference.pairs_made(32)
    moods = [row.fields["cheerful"] for row in pairs.rows]
    planted = {}
    for job in preference.jobs_of(pairs).values():
        for prompt, item in zip(job.prompts, job.items, strict=True):
            cheerful = (moods[item.row] == "True") is not item.exchanged
            planted[prompt] = int(not cheerful)
    server = serve(planted, meaning=1.0)
    document, _ = ran("arbitrary_preference", "-e", server.url, "--rows", "32", "--seeds", "2")
    found = means(document)
    assert found["better: by the sun"] == pytest.approx(0.5, abs=0.2)
    assert found["better: by the mood"] >= 0.9
    assert found["more cheerful: by the mood"] >= 0.9
    assert papers(document)["better: by the sun"] == "chance"
    _, told = ran("arbitrary_preference", "-e", server.url, "--rows", "32", "--seeds", "3")
    assert told.count("(kept)") == 4  # the third seed of each question is new


def test_what_is_asked_of_poems_holds_neither_answer() -> None:
    preference = script("arbitrary_preference")
    for job in preference.jobs_of(preference.pairs_made(8)).values():
        assert job.dataset.gold is None
        assert all(set(row.fields) == {"id", "poem_1", "poem_2"} for row in job.dataset.rows)


@pytest.mark.parametrize("name", ["truthfulqa", "consistency_ablation", "arbitrary_preference"])
def test_a_check_without_a_server_is_no_check(name: str) -> None:
    done = CliRunner().invoke(script(name).check, ["rows.json"])
    assert done.exit_code == 2
    assert "Missing option '--endpoint'" in done.output


def test_steps_are_refused_where_there_are_none() -> None:
    arguments = ["rows.json", "-e", "http://localhost", "--preset", "fast", "--steps", "9"]
    done = CliRunner().invoke(script("consistency_ablation").check, arguments)
    assert done.exit_code == 2
    assert "--steps is for --preset paper" in done.output


def readme_commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def test_the_commands_of_the_readme_are_those_of_the_scripts() -> None:
    ours = [words for words in readme_commands() if words[0] == "python"]
    assert len(ours) >= 10
    for _, path, *arguments in ours:
        module = script(Path(path).stem)
        command = getattr(module, "check", None) or module.make
        assert command.make_context(path, list(arguments)).params
        assert (README.parents[2] / path).exists()
    servers = [words for words in readme_commands() if words[0].endswith("bin/python")]
    for _, _, *arguments in servers:
        assert serve_command.make_context("serve", list(arguments)).params["model"]


def test_no_link_of_the_readme_is_dead_and_nothing_is_left_to_fill_in() -> None:
    text = README.read_text("utf-8")
    assert not re.findall(r"^[A-Z]{5,}$", text, re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
    for name in re.findall(r"`([a-z_]+\.(?:py|csv)|LICENSE\.\w+)`", text):
        assert any(path.name == name for path in FOLDER.rglob("*")), name


def test_templates_make_balanced_pairs_of_different_poems() -> None:
    poems = script("make_poems")
    pairs = poems.template_pairs(40, 0)
    assert Counter((pair["sun"], pair["cheerful"]) for pair in pairs) == {
        (sun, cheerful): 10 for sun in ("True", "False") for cheerful in ("True", "False")
    }
    texts = [str(pair[poem]) for pair in pairs for poem in ("poem_1", "poem_2")]
    assert len(set(texts)) == 80
    for pair in pairs:
        first, second = (re.search(r"\bsun\b", str(pair[poem])) for poem in ("poem_1", "poem_2"))
        assert (first is not None) is (pair["sun"] == "True")
        assert (second is not None) is (pair["sun"] == "False")
    assert all(text.count(" / ") == 3 for text in texts)
    for pair in pairs:
        moods = [is_cheerful(poems, str(pair[poem])) for poem in ("poem_1", "poem_2")]
        assert moods == [pair["cheerful"] == "True", pair["cheerful"] == "False"]
    assert poems.template_pairs(40, 0) == pairs != poems.template_pairs(40, 1)


def is_cheerful(poems: ModuleType, poem: str) -> bool:
    """Whether the poem's verses are from the cheerful lists; from both they may not be."""
    found = set()
    for verse in poem.rstrip(".").split(" / "):
        for cheerful, lists in poems.LINES_OF.items():
            for line in (*lists[0], *lists[1]):
                pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(line.rstrip(",")))
                if re.fullmatch(pattern, verse.rstrip(","), re.IGNORECASE):
                    found.add(cheerful)
    (only,) = found
    return bool(only)


class Poet:
    """A completions route; every third poem is not of the kind that was asked for."""

    def __init__(self, *, fails: bool = False) -> None:
        self.asked: list[dict[str, Any]] = []
        self._fails = fails

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        entry = {"id": "poet", "object": "model", "created": 0, "owned_by": "test"}
        return web.json_response({"object": "list", "data": [entry]})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        number = len(self.asked)
        with_sun = "sun: yes" in body["prompt"].rstrip().splitlines()[-1]
        if number % 3 == 0 or self._fails:
            with_sun = not with_sun
        thing = "the sun" if with_sun else "a stone"
        text = "".join(f"Verse {number} line {line}\n" for line in range(3)) + f"then {thing}\n"
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        answer = {"id": "x", "object": "text_completion", "created": 0, "model": "poet"}
        return web.json_response({**answer, "choices": [choice]})


@pytest.fixture
def poet_at(portal: BlockingPortal) -> Iterator[Callable[[Poet], str]]:
    runners: list[web.AppRunner] = []

    async def listen(poet: Poet) -> str:
        runner = web.AppRunner(poet.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield lambda poet: portal.call(listen, poet)
    for runner in runners:
        portal.call(runner.cleanup)


def test_a_served_model_writes_the_poems(poet_at: Callable[[Poet], str], tmp_path: Path) -> None:
    poems, poet = script("make_poems"), Poet()
    url = poet_at(poet)
    arguments = ["poems.jsonl", "--pairs", "8", "--from-model", "-e", f"{url}/v1/"]
    done = CliRunner().invoke(poems.make, arguments)
    assert done.exit_code == 0, done.exception
    pairs = script("arbitrary_preference").read_pairs(tmp_path / "poems.jsonl")
    for row in pairs.rows:
        assert ("the sun" in str(row.fields["poem_1"])) is (row.fields["sun"] == "True")
        assert ("the sun" in str(row.fields["poem_2"])) is (row.fields["sun"] == "False")
    assert len(poet.asked) > 16  # those that were not as asked for were asked for again
    assert {body["model"] for body in poet.asked} == {"poet"}
    assert len({body["seed"] for body in poet.asked}) == len(poet.asked)


def test_a_model_that_cannot_write_them_is_an_error(poet_at: Callable[[Poet], str]) -> None:
    poems = script("make_poems")
    url = poet_at(Poet(fails=True))
    done = CliRunner().invoke(
        poems.make, ["poems.jsonl", "--pairs", "4", "--from-model", "-e", url]
    )
    assert "of 20 poems that the model wrote 0 are as asked for" in str(done.exception)
    assert not Path("poems.jsonl").exists()


@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo\nthree",
        "one\ntwo\n\nfour",
        "a sunny day\ntwo\nthree\nfour",
        "at sunrise\ntwo\nthree\nfour",
    ],
)
def test_what_is_no_poem_without_the_sun_is_thrown_away(text: str) -> None:
    poems = script("make_poems")
    kind = poems.Kind(sun=False, cheerful=True)
    assert poems.accepted(text, kind, "") is None
    assert poems.accepted("one\ntwo on Sunday\nthree\nfour", kind, "") is not None
    assert poems.accepted("one\ntwo on Sunday\nthree\nfour", kind, "shown: one") is None
    prompt = poems.request_for(kind, random.Random(0))
    assert prompt.endswith("Mood: cheerful. Mentions the sun: no. Poem:\n")


def went_on(error: IcmError) -> IcmError:
    error.goes_on = True
    return error


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (click.UsageError("which rows?"), 2, "which rows?"),
        (InputError("no such file"), 2, "Error: no such file"),
        (EndpointFault("it fell over"), 1, "Error: it fell over\n"),
        (went_on(EndpointFault("it fell over")), 1, "the same command again goes on from here"),
    ],
)
def test_a_check_that_is_broken_off_says_how_to_go_on(
    raised: BaseException,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    def broken() -> None:
        raise raised

    monkeypatch.setattr("sys.argv", ["broken"])
    with pytest.raises(SystemExit) as ended:
        main(broken)
    assert ended.value.code == status
    told = capsys.readouterr().err
    assert said in told
    assert ("goes on from here" in told) == getattr(raised, "goes_on", False)
