"""`icm-client label` as a user meets it: what is printed where, and how it ends."""

import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from whole_program import Run, whole_program

import icm_client.runs.server
from icm_client import Task, read_rows
from icm_client.cli.main import cli
from icm_client.endpoints import Answer, Read
from icm_client.errors import EndpointFault
from icm_client.testing import PlantedConcept

ASKED = ("--template", r"Review: {text}\nSentiment:", "--labels", "positive,negative")
TASK = Task(template="Review: {text}\nSentiment:", labels=("positive", "negative"))
GOES_ON = "Every score so far is kept: the same command again goes on from here.\n"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """40 rows with gold labels; a copy of their texts says which class is planted."""
    path = tmp_path / "rows.jsonl"
    lines = [{"text": f"words of row {i}", "gold": TASK.labels[i * 7 % 5 % 2]} for i in range(40)]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The whole program, its exit status included."""
    return whole_program(monkeypatch, capsys)


def concept(
    rows: Path, *, strength: float = 3.0, noise: float = 0.5, meaning: float = 1.0
) -> PlantedConcept:
    dataset = read_rows(rows, gold="gold")
    classes = [TASK.labels.index(gold or "") for gold in dataset.gold or ()]
    planted = dict(zip(TASK.render_all(dataset), classes, strict=True))
    return PlantedConcept(
        planted, TASK.label_texts, strength=strength, noise=noise, meaning=meaning
    )


def own_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: PlantedConcept) -> PlantedConcept:
    """Have `endpoint` stand where the embedded server would."""
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: endpoint)
    return endpoint


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, rows: Path) -> PlantedConcept:
    return own_endpoint(monkeypatch, concept(rows))


@pytest.fixture
def nothing_there(
    monkeypatch: pytest.MonkeyPatch, rows: Path
) -> Iterator[tuple[str, socket.socket]]:
    """The URL of a socket that listens, and the socket, to see whether anybody came."""
    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", lambda: pytest.fail(str(rows)))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def test_help_names_the_command_and_every_option(run: Run) -> None:
    whole = run("--help")
    assert whole.code == 0
    assert "label" in whole.out
    about = run("label", "-h")
    assert about.code == 0
    for option in ("--output", "--task", "--template", "--endpoint", "--seed", "--dry-run"):
        assert option in about.out
    assert "icm-client tasks" in " ".join(about.out.split())
    assert run("--version").out.startswith("icm-client, version")


def test_a_dry_run_shows_the_first_prompt_and_needs_neither_output_nor_server(
    run: Run, rows: Path, nothing_there: tuple[str, socket.socket], tmp_path: Path
) -> None:
    ended = run("label", rows, *ASKED, "--dry-run", "-e", nothing_there[0])
    assert ended.code == 0
    assert "Review: words of row 0\nSentiment:\n" in ended.out
    assert "' positive'" in ended.out
    assert "40 rows" in ended.out
    assert ended.err.startswith(f"Note: row lengths were not checked: GET {nothing_there[0]}")
    assert {path.name for path in tmp_path.iterdir()} <= {"rows.jsonl", "cache"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ASKED, r"Missing option '-o'"),
        ((*ASKED[:2], "-o", "out.jsonl"), r"--template and --labels go together"),
        ((*ASKED[2:], "-o", "out.jsonl"), r"--template and --labels go together"),
        ((*ASKED, "-t", "sentiment", "-o", "out.jsonl"), r"exclude each other"),
        (("-t", "sentimet", "-o", "out.jsonl"), r"no built-in task .*Did you mean 'sentiment'"),
        (("-o", "out.jsonl"), r"no task: .*--template"),
        ((*ASKED, "-o", "out.jsonl", "--prior", "positive"), r"'positive' is not LABEL=SHARE"),
        ((*ASKED, "-o", "out.jsonl", "--prior", "fine=0.2"), r"fine"),
        ((*ASKED, "-o", "out.jsonl", "--prior", "positive=1.2"), r"prior"),
        ((*ASKED, "-o", "rows.jsonl"), r"would overwrite the rows"),
        ((*ASKED, "-o", "./rows.jsonl"), r"would overwrite the rows"),
        ((*ASKED, "-o", "nowhere/out.jsonl"), r"nowhere"),
        ((*ASKED, "-o", "out.jsonl", "--gold", "glod"), r"rows.jsonl:1: no gold field 'glod'"),
        (
            (*ASKED, "-o", "out.jsonl", "--gguf", "m.gguf"),
            r"a GGUF file is for the embedded server",
        ),
        ((*ASKED, "-o", "out.jsonl", "--max-sweeps", "1"), r"--max-sweeps"),
        (("--template", "{txt}", "--labels", "a,b", "-o", "o.csv"), r"rows.jsonl:1: .*'txt'"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_reason_and_sends_nothing(
    run: Run,
    rows: Path,
    nothing_there: tuple[str, socket.socket],
    arguments: Sequence[str],
    message: str,
) -> None:
    url, listening = nothing_there
    before = rows.read_bytes()
    ended = run("label", rows.name, *arguments, "-e", url)
    assert ended.code == 2
    assert re.search(message, ended.err, re.DOTALL), ended.err
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err
    assert GOES_ON not in ended.err
    assert ended.out == ""
    with pytest.raises(BlockingIOError):
        listening.accept()
    assert rows.read_bytes() == before
    assert not Path("out.jsonl").exists()


def test_several_constraints_hold_at_once(run: Run, tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "q": n // 4, "a": n % 3} for n in range(8)]
    path = tmp_path / "claims.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    both = ("--constraint", "mutual-exclusion", "--constraint", "same-answer")
    ended = run("label", path.name, *ASKED, *both, "--group", "q", "--answer", "a", "--dry-run")
    assert ended.code == 0
    assert "'mutual-exclusion' joins 8 of 8 rows in 2 groups" in ended.out + ended.err
    assert "'same-answer' joins 4 of 8 rows in 2 groups" in ended.out + ended.err
    refused = run("label", path.name, *ASKED, *both, "--implies", "a", "--dry-run")
    assert refused.code == 2
    assert "takes `implies`" in refused.err


def test_a_broken_row_is_told_with_its_line_and_nothing_is_sent(
    run: Run, rows: Path, nothing_there: tuple[str, socket.socket]
) -> None:
    url, listening = nothing_there
    lines = rows.read_bytes().splitlines()
    lines[6] = lines[6][:-3]
    rows.write_bytes(b"\n".join(lines))
    ended = run("label", rows.name, *ASKED, "-o", "out.jsonl", "-e", url)
    assert ended.code == 2
    assert ended.err.startswith("Error: rows.jsonl:7: broken JSON")
    with pytest.raises(BlockingIOError):
        listening.accept()


def test_a_missing_file_is_told(run: Run) -> None:
    ended = run("label", "none.jsonl", *ASKED, "-o", "out.jsonl")
    assert ended.code == 2
    assert "none.jsonl: no such file" in ended.err


def test_a_server_that_cannot_be_reached_ends_with_1_and_where_it_was_sought(
    run: Run, rows: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ended = run("label", rows, *ASKED, "-o", "out.jsonl", "-e", f"http://127.0.0.1:{port}")
    assert ended.code == 1
    assert f"127.0.0.1:{port}" in ended.err
    assert GOES_ON not in ended.err
    assert "Traceback" not in ended.err
    assert not Path("out.jsonl").exists()


def test_the_command_again_goes_on_after_a_failure(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = own_endpoint(monkeypatch, concept(rows))
    answer = endpoint.read

    async def read(reads: Sequence[Read], *, lane: int | None = None) -> list[Answer]:
        if endpoint.usage.requests >= 60:
            raise EndpointFault("the server fell over")
        return await answer(reads, lane=lane)

    monkeypatch.setattr(endpoint, "read", read)
    ended = run("label", rows, *ASKED, "-o", "out.jsonl")
    assert ended.code == 1
    assert ended.err.endswith(f"Error: the server fell over\n{GOES_ON}")
    assert not Path("out.jsonl").exists()
    own_endpoint(monkeypatch, concept(rows))
    ended = run("label", rows, *ASKED, "-o", "out.jsonl", "--json")
    assert ended.code == 0
    assert orjson.loads(ended.out)["cost"]["from_store"] == 60


@pytest.mark.usefixtures("endpoint")
def test_labels_are_written_and_a_table_tells_of_them(run: Run, rows: Path) -> None:
    ended = run("label", rows, *ASKED, "-o", "out.jsonl", "--gold", "gold")
    assert ended.code == 0
    for word in ("positive", "negative", "accuracy", "coherence", "tokens", "out.jsonl"):
        assert word in ended.out
    heading, *by_label = ended.out.splitlines()[-3:]
    shown = "precision recall F1 rows as positive as negative"
    assert heading.split()[2:] == shown.split()
    told = dict(zip(TASK.labels, (line.split()[1:] for line in by_label), strict=True))
    lines = [orjson.loads(line) for line in Path("out.jsonl").read_bytes().splitlines()]
    assert len(lines) == 40
    assert {line["label"] for line in lines} == set(TASK.labels)
    assert sum(line["label"] == line["gold"] for line in lines) > 38
    for gold, (*_, positive, negative) in told.items():
        given = [line["label"] for line in lines if line["gold"] == gold]
        assert (int(positive), int(negative)) == tuple(map(given.count, TASK.labels))


@pytest.mark.usefixtures("endpoint")
def test_the_same_command_again_writes_the_same_and_asks_nothing(run: Run, rows: Path) -> None:
    command = ("label", rows, *ASKED, "--json", "-o")
    first, again = run(*command, "first.csv"), run(*command, "again.csv")
    assert Path("first.csv").read_bytes() == Path("again.csv").read_bytes()
    told, retold = orjson.loads(first.out), orjson.loads(again.out)
    assert retold["cost"]["from_server"] == 0
    assert retold["cost"]["from_store"] == told["cost"]["from_server"] > 0


@pytest.mark.usefixtures("endpoint")
def test_json_is_all_of_standard_output(run: Run, rows: Path) -> None:
    ended = run("label", rows, *ASKED, "-o", "out.jsonl", "--gold", "gold", "--json", "-v")
    told = orjson.loads(ended.out)
    assert ended.err == ""
    assert told["output"] == "out.jsonl"
    assert told["rows"] == 40
    assert told["counts"].keys() == {"positive", "negative"}
    assert told["accuracy"] > 0.95
    assert told["confusion"]["labels"] == list(TASK.labels)
    assert sum(map(sum, told["confusion"]["counts"])) == told["rows_with_gold"] == 40
    assert told["confusion"]["by_label"]["positive"]["recall"] > 0.9
    assert told["findings"] == told["notices"] == []
    assert told["server"]["kind"] == "planted"
    keys = {"utility", "seed", "restart", "prior_source", "sweeps", "cost", "data"}
    assert keys <= told.keys()
    assert {"restart", "sweep", "utility", "counts", "moved"} <= told["sweeps"][0].keys()


@pytest.mark.usefixtures("endpoint")
def test_quiet_prints_nothing_where_nothing_is_wrong(run: Run, rows: Path) -> None:
    assert run("label", rows, *ASKED, "-o", "out.jsonl", "-q") == (0, "", "")
    assert Path("out.jsonl").exists()


def test_quiet_prints_warnings(run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_endpoint(monkeypatch, concept(rows, strength=0, meaning=0, noise=0.1))
    ended = run("label", rows, *ASKED, "-o", "out.jsonl", "-q")
    assert ended.code == 0
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert lines
    assert all(line.startswith("Warning: ") for line in lines)
    assert "not to be trusted" in lines[-1]


@pytest.mark.usefixtures("endpoint")
def test_without_a_terminal_progress_is_a_plain_line_a_sweep(run: Run, rows: Path) -> None:
    ended = run("label", rows, *ASKED, "-o", "out.jsonl")
    labels, *lines = ended.err.splitlines()
    assert re.fullmatch(r"Labels: negative \(token \d+\), positive \(token \d+\)", labels)
    assert len(lines) >= 2
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"sweep {number}: U [+-]\d\.\d{{3}}, \d+ negative, \d+ positive, \d+ moved, "
            r"[\d,]+ tokens computed, \d+ s",
            line,
        )
    assert "\x1b" not in ended.err + ended.out


def test_warnings_come_last_and_the_worst_one_at_the_very_end(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.write_bytes(rows.read_bytes() + b'\n{"text": "words of row 0", "gold": "positive"}')
    own_endpoint(monkeypatch, concept(rows, strength=0, meaning=0, noise=0.1))
    ended = CliRunner().invoke(cli, ["label", str(rows), *ASKED, "-o", "out.jsonl"])
    assert ended.exit_code == 0
    lines = ended.output.splitlines()
    (result_ends,) = (number for number, line in enumerate(lines) if line.startswith("labels in"))
    last = lines[result_ends + 1 :]
    assert all(line.startswith(("Note: ", "Warning: ")) for line in last)
    alike = "Warning: 1 row has the same prompt as an earlier row"
    assert lines[0].startswith(alike)  # before the run, while it can be heeded
    assert sum(line.startswith(alike) for line in last) == 1
    assert "not to be trusted" in last[-1]


@pytest.mark.usefixtures("endpoint")
def test_quiet_and_json_leave_out_what_is_only_worth_knowing(run: Run, rows: Path) -> None:
    lines = rows.read_bytes().splitlines()
    rows.write_bytes(b"\n".join([*lines, b'{"text": "words of row 0", "gold": ""}']))
    command = ("label", rows, *ASKED, "--gold", "gold", "-o", "out.jsonl")
    note = "1 of 41 rows have no label in the gold field 'gold'"
    warning = "1 row has the same prompt as an earlier row"
    plain, quiet, told = run(*command), run(*command, "-q"), run(*command, "--json")
    assert f"Note: {note}" in plain.err
    for ended in (plain, quiet, told):
        assert f"Warning: {warning}" in ended.err
    for ended in (quiet, told):
        assert "Note:" not in ended.err
    document = orjson.loads(told.out)
    assert [one.startswith(warning) for one in document["warnings"]] == [True]
    assert [one.startswith(note) for one in document["notices"]] == [True]


@pytest.mark.usefixtures("endpoint")
def test_verbose_shows_a_prompt_and_the_task_beside_the_rows_is_found(run: Run, rows: Path) -> None:
    Path("task.toml").write_text(
        'template = "Review: {text}\\nSentiment:"\nlabels = ["positive", "negative"]\n'
        'gold = "gold"\n',
        encoding="utf-8",
    )
    ended = run("label", rows, "-o", "out.jsonl", "-v")
    assert ended.code == 0
    assert "Review: words of row 0\nSentiment:\n" in ended.out
    assert ended.err.startswith("Task: ")
    assert "task.toml" in ended.err.splitlines()[0]
    assert "accuracy" in ended.out


@pytest.mark.usefixtures("endpoint")
def test_a_prior_is_taken(run: Run, rows: Path) -> None:
    ended = run("label", rows, *ASKED, "-o", "o.jsonl", "--prior", "positive=0.3", "--json")
    assert orjson.loads(ended.out)["prior_source"] == "given"


def test_ctrl_c_ends_with_130_and_promises_nothing_before_a_score_is_kept(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icm_client.cli.label.anyio.run", interrupted)
    ended = run("label", rows, *ASKED, "-o", "out.jsonl")
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "Interrupted."
    assert not Path("out.jsonl").exists()


def test_pinned_rows_name_the_classes_and_are_told_of(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_endpoint(monkeypatch, concept(rows, meaning=0))
    gold = [orjson.loads(line)["gold"] for line in rows.read_bytes().splitlines()]
    pins = "".join(f'{{"id": {n + 1}, "label": "{gold[n]}"}}\n' for n in (0, 1, 3, 5))
    Path("checked.jsonl").write_text(pins, "utf-8")
    command = ("label", rows, *ASKED, "--gold", "gold", "--pin", "checked.jsonl")
    ended = run(*command, "-o", "out.jsonl")
    assert ended.code == 0
    assert "4 rows, kept by the search" in ended.out
    lines = [orjson.loads(line) for line in Path("out.jsonl").read_bytes().splitlines()]
    assert sum(line["label"] == line["gold"] for line in lines) > 38
    again = orjson.loads(run(*command, "-o", "again.jsonl", "--json").out)
    assert again["cost"]["from_server"] == 0
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


@pytest.mark.parametrize("more", [("-o", "out.jsonl"), ("--dry-run",)])
def test_pins_that_are_no_rows_end_with_2_and_their_line(
    run: Run, rows: Path, nothing_there: tuple[str, socket.socket], more: tuple[str, ...]
) -> None:
    url, listening = nothing_there
    Path("checked.csv").write_text("id,label\n3,positive\n41,positive\n", "utf-8")
    ended = run("label", rows.name, *ASKED, "--pin", "checked.csv", "-e", url, *more)
    assert ended.code == 2
    assert ended.err.startswith("Error: checked.csv:3: no row of rows.jsonl has the id '41'")
    with pytest.raises(BlockingIOError):
        listening.accept()


@pytest.mark.usefixtures("endpoint")
def test_a_forecast_says_first_what_it_costs_and_then_what_it_measures(
    run: Run, rows: Path
) -> None:
    ended = run("label", rows, *ASKED, "--forecast")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("A run over 40 rows: ")
    cost, *steps = ended.err.splitlines()
    assert re.fullmatch(
        r"The forecast sends at most 82 requests with [\d,]+ prompt tokens in all\.", cost
    )
    assert [step.split()[0] for step in steps] == ["Measuring"] * 3
    assert run("label", rows, *ASKED, "--forecast", "-q").err == ""


def test_a_forecast_labels_nothing(run: Run, rows: Path, endpoint: PlantedConcept) -> None:
    ended = run("label", rows, *ASKED, "-o", "out.jsonl", "--forecast", "--json")
    assert ended.code == 0, ended.err
    assert orjson.loads(ended.out)["rows"] == 40
    assert not Path("out.jsonl").exists()
    assert not Path("runs").exists()
    assert endpoint.usage.requests < 100


def test_a_dry_run_for_programs_is_one_document(run: Run, rows: Path) -> None:
    ended = run("label", rows, *ASKED, "--dry-run", "--forecast", "--json")
    assert ended.code == 0, ended.err
    shown = orjson.loads(ended.out)
    assert shown["rows"] == 40
    assert shown["first_prompt"] == "Review: words of row 0\nSentiment:"
    assert sorted(shown["labels"]) == [" negative", " positive"]
    assert shown["notices"] == []


BROKEN = "id,text\n" + "".join(f"{n},words of row {n}\n" for n in range(40)) + "40,\n41,a,b\n"


def test_bad_rows_are_all_named_and_nothing_goes_on_from_there(
    run: Run, endpoint: PlantedConcept, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(BROKEN)
    for more in (("-o", "out.jsonl"), ("--dry-run",)):
        ended = run("label", path, *ASKED, *more)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.splitlines() == [
            f"Error: {path}:42: the field 'text' is empty; the template needs its text (id '40')",
            (
                f"{path}:43: columns: 3 here, 2 in the header; text with a separator or line break "
                "in it must be in double quotes. The row begins '41'"
            ),
            "2 rows cannot be used",
            "--skip-bad-rows goes on with the other rows.",
        ]
    assert endpoint.usage.requests == 0


@pytest.mark.usefixtures("endpoint")
def test_bad_rows_can_be_skipped_and_are_listed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(BROKEN)
    ended = run("label", path, *ASKED, "-o", "out.jsonl", "--skip-bad-rows", "--json")
    assert ended.code == 1
    failed = orjson.loads(ended.out)["failed"]
    assert [(row["id"], row["line"]) for row in failed] == [("40", 42), (42, 43)]
    for listed in ("row '40' (line 42) has no label: the field 'text'", "row 42 (line 43)"):
        assert listed in ended.err
    assert len(read_rows("out.jsonl").rows) == 40
    shown = run("label", path, *ASKED, "--dry-run", "--skip-bad-rows")
    assert (shown.code, "row '40' (line 42)" in shown.err) == (0, True)


def test_what_quotes_mean_can_be_said(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "quoted.csv"
    path.write_text('n,text\n1,"words of row 1\n2,words of row 2"\n3,words of row 3\n')
    warned = run("label", path, *ASKED, "--dry-run")
    assert "2 rows." in warned.out
    assert "Note: line 3 would make rows, but stand" not in warned.err
    assert "Note: line 3 would make a row, but stands inside a double quote" in warned.err
    plain = run("label", path, *ASKED, "--dry-run", "--quote", "none")
    assert "3 rows." in plain.out
    assert plain.err == ""
    assert run("label", path, *ASKED, "--dry-run", "--quote", "standard").err == ""


@pytest.mark.usefixtures("endpoint")
def test_whole_numbers_past_64_bits_come_back_in_every_place(run: Run, tmp_path: Path) -> None:
    big = 36893488147419103233
    path = tmp_path / "big.jsonl"
    lines = [f'{{"id": {big + n}, "n": {big}, "text": "words of row {n}"}}' for n in range(40)]
    path.write_text("\n".join([*lines, f'{{"id": {big + 40}}}']))
    ended = run("label", path, *ASKED, "-o", "out.csv", "--skip-bad-rows", "--json")
    assert f'"id": {big + 40}' in ended.out
    rows = read_rows("out.csv").rows
    assert [row.id for row in rows] == [str(big + n) for n in range(40)]
    assert rows[0].fields["n"] == str(big)


@pytest.mark.usefixtures("endpoint")
def test_a_limit_labels_the_same_few_rows_whatever_the_seed(run: Run, rows: Path) -> None:
    few = ("--limit", "12", "-q")
    assert run("label", rows, *ASKED, "-o", "a.jsonl", *few).code == 0
    assert run("label", rows, *ASKED, "-o", "b.jsonl", "--seed", "5", *few).code == 0
    ids = [[row.id for row in read_rows(name).rows] for name in ("a.jsonl", "b.jsonl")]
    assert ids[0] == ids[1] == sorted(ids[0])
    assert len(ids[0]) == 12
    assert ids[0] != list(range(1, 13))


def test_a_limit_too_small_for_a_group_is_refused(run: Run, tmp_path: Path) -> None:
    lines = [{"text": f"row {n}", "of": n // 5} for n in range(10)]
    (tmp_path / "grouped.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    rule = ("--constraint", "at-most-one", "--group", "of", "--limit", "4", "--dry-run")
    ended = run("label", "grouped.jsonl", *ASKED, *rule)
    assert ended.code == 2
    assert "0 of the rows, in whole groups, fit into 4: ask for more" in ended.err
