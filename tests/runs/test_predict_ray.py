"""Many files to labels: which files, what a worker does with one, and all of it on a real Ray."""

import gzip
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from planted_reviews import TASK, reviews

from icm_client import label
from icm_client.cli.main import cli
from icm_client.data.record_files import write_records
from icm_client.endpoints import TransportSettings
from icm_client.errors import IcmError, InputError, RunError, SetupError
from icm_client.runs import predict_ray
from icm_client.runs.predict_file import Predicted, predict_file
from icm_client.runs.predict_ray import ShardProgress, predict_shards
from icm_client.runs.predictor import Predictor
from icm_client.runs.server import Server
from icm_client.runs.shards import Shard, ShardFolder, find_shards
from icm_client.scoring import open_store

ROWS = 96
MEASURED = 32


def write_shards(folder: Path, rows: Sequence[dict[str, str]], n: int, ending: str) -> None:
    folder.mkdir(exist_ok=True)
    size = -(-len(rows) // n)
    for number in range(n):
        path = folder / f"part-{number:04}{ending}"
        with path.open("wb") as file:
            some = rows[number * size : (number + 1) * size]
            write_records(file, path.name, None, ("text", "label"), some)


def names(shards: Sequence[Shard]) -> list[str]:
    return [shard.name for shard in shards]


def test_a_shards_labels_have_its_path_below_the_pattern(tmp_path: Path) -> None:
    for name in ("b/one.jsonl", "a/one.jsonl", "a/two.jsonl", "a/deep/one.jsonl", "a/x.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "some"}\n')
    shards = find_shards("data/*/*.jsonl", "out")
    assert names(shards) == ["a/one.jsonl", "a/two.jsonl", "b/one.jsonl"]
    assert shards[0].output == tmp_path / "out" / "a" / "one.jsonl"
    assert names(find_shards("data/**/one.jsonl", "out")) == [
        "a/deep/one.jsonl",
        "a/one.jsonl",
        "b/one.jsonl",
    ]
    (tmp_path / "data" / "b" / "one.jsonl").unlink()
    assert names(find_shards("data/*/*.jsonl", "out")) == ["a/one.jsonl", "a/two.jsonl"]
    found = find_shards("data/a/x.txt", "out", data_format="jsonl", output_format="csv")
    assert names(found) == ["x.csv"]


def test_compressed_shards_and_workbooks(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        (tmp_path / "data" / name).touch()
    assert names(find_shards("data/*", "out")) == ["a.jsonl.gz", "b.jsonl.zst"]
    assert names(find_shards("data/*", "out", output_format="arrow")) == ["a.arrow", "b.arrow"]
    assert all(shard.is_empty() for shard in find_shards("data/*", "out"))
    (tmp_path / "data" / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "some"}\n'))
    assert [shard.is_empty() for shard in find_shards("data/*", "out")] == [False, True]
    (tmp_path / "data" / "c.xlsx").touch()
    with pytest.raises(InputError, match="labels are not written as an Excel workbook"):
        find_shards("data/*.xlsx", "out")
    assert names(find_shards("data/*.xlsx", "out", output_format="csv")) == ["c.csv"]


def test_a_pattern_that_means_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"data/\*: there is no such file"):
        find_shards("data/*", "out")
    with pytest.raises(InputError, match=r"for a folder's files: 'data/\*\.parquet'"):
        find_shards("data/", "out")
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / "data" / name).write_text("text\n")
    with pytest.raises(InputError, match="of one format, and these are of 2"):
        find_shards("data/*", "out")
    with pytest.raises(InputError, match="lies in data, where the labels go"):
        find_shards("data/*.csv", "data")
    (tmp_path / "data" / "a.tsv").write_text("text\n")
    with pytest.raises(InputError, match=r"would both be a\.jsonl"):
        find_shards("data/*.[ct]sv", "out", output_format="jsonl")


def test_files_of_others_are_not_labelled_over(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    with pytest.raises(InputError, match="name a new or an empty folder"):
        ShardFolder(tmp_path / "theirs").check()
    with pytest.raises(InputError, match="is a file"):
        ShardFolder(tmp_path / "theirs" / "thesis.tex").check()


def test_the_command_says_what_an_engine_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(Path("data"), reviews(4), 2, ".jsonl")
    with pytest.raises(InputError, match="name one with --endpoint or ICM_ENDPOINT"):
        predict_shards(None, "data/*", "out", endpoint=None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=re.escape("pip install 'icm-client[ray]'")):
        predict_shards(None, "data/*", "out", endpoint="http://x")  # type: ignore[arg-type]


SERVER = """
import signal, sys
sys.path.insert(0, sys.argv[1])
import anyio
from planted_reviews import planted
from icm_client.testing import PlantedServer

async def serve():
    concept = planted(int(sys.argv[2]))
    async with PlantedServer(concept, slots=4, latency_s=float(sys.argv[3])) as server:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            print(server.url, flush=True)
            async for _ in signals:
                break
    print(concept.usage.requests, flush=True)

anyio.run(serve)
"""


@contextmanager
def serving(n_rows: int, *, latency_s: float = 0.0) -> Iterator[tuple[str, "Popen[str]"]]:
    """A server in a process of its own, and its URL; at its end it prints how many it has read."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SERVER, here, str(n_rows), str(latency_s)]
    with Popen(command, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.terminate()
        process.wait()  # it prints before its end


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ROWS) as (url, _):
        yield url


def predictor_at(url: str) -> Predictor:
    """Of a run on the first rows."""
    anyio.run(partial(label, reviews(MEASURED), task=TASK, endpoint=url, runs="runs"))
    (run,) = Path("runs").iterdir()
    return Predictor.load(run)


def alone(predictor: Predictor, url: str, source: Path, output: Path) -> bytes:
    """What a shard gets without Ray."""
    with open_store("alone.sqlite3") as store:
        labelled = partial(predict_file, endpoint=url, store=store, gold="label")
        anyio.run(labelled, predictor, source, output)
    return output.read_bytes()


@pytest.fixture
def predictor(url: str) -> Predictor:
    return predictor_at(url)


@pytest.fixture
def shards_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, in this process: what it does is the same wherever Ray puts it."""

    def labelled(
        shards: Sequence[Shard], work: predict_ray._Work, workers: int, address: str | None
    ) -> Iterator[object]:
        assert (workers, address) == (min(2, len(shards)), None)
        worker = predict_ray._Worker(work)
        with worker._open:
            for shard in shards:
                batch = zip(Shard._fields, ([str(value)] for value in shard), strict=True)
                yield worker(dict(batch))["outcome"][0]

    monkeypatch.setattr(predict_ray, "_labelled", labelled)
    monkeypatch.setattr(predict_ray, "_require_ray", lambda: None)


Predict = Callable[..., Predicted]


@pytest.fixture
def predict(url: str, predictor: Predictor, shards_here: None) -> Predict:  # noqa: ARG001
    def called(data: str = "data/*", **options: object) -> Predicted:
        return predict_shards(predictor, data, "out", endpoint=url, **options)  # type: ignore[arg-type]

    return called


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/_manifest.json").read_bytes())
    return found


def test_shards_have_the_bytes_that_each_gets_alone(
    url: str, predictor: Predictor, predict: Predict
) -> None:
    write_shards(Path("data"), reviews(ROWS), 5, ".parquet")
    seen: list[ShardProgress] = []
    found = predict(gold="label", progress=seen.append)
    assert [at.done for at in seen] == [0, 1, 2, 3, 4, 5]
    assert (found.totals.rows, found.labelled, found.accuracy) == (ROWS, ROWS, 1.0)
    assert found.confusion is not None
    assert sum(label.right for label in found.confusion.by_label) == ROWS
    assert found.verdict == "trust"
    for shard in find_shards("data/*", "out"):
        assert alone(predictor, url, shard.source, Path("a.parquet")) == shard.output.read_bytes()
    written = manifest()
    assert [one["file"] for one in written["shards"]] == [f"part-{n:04}.parquet" for n in range(5)]
    assert sum(one["rows"] for one in written["shards"]) == written["rows"] == ROWS
    assert written["counts"] == found.totals.counts
    assert written["verdict"] == "trust"


def test_the_same_command_labels_what_is_missing(predict: Predict) -> None:
    write_shards(Path("data"), reviews(ROWS), 4, ".jsonl")
    predict()
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert predict().cost.requests == 0
    assert {path: path.read_bytes() for path in before} == before
    # A kill after the labels and before their record; a file that is gone; one that has changed.
    Path("out/_shards/part-0000.jsonl.json").unlink()
    Path("out/part-0001.jsonl").unlink()
    os.utime("data/part-0002.jsonl", (0, 0))
    seen: list[ShardProgress] = []
    predict(progress=seen.append)
    assert seen[0].done == 1
    assert seen[-1] == ShardProgress(4, 4, 3 * ROWS // 4)
    labels = [path for path in before if path.suffix == ".jsonl"]
    assert {path: path.read_bytes() for path in labels} == {one: before[one] for one in labels}


def test_a_shard_with_a_bad_row_keeps_none_of_the_others_back(predict: Predict) -> None:
    write_shards(Path("data"), reviews(ROWS), 4, ".jsonl")
    bad = Path("data/part-0001.jsonl")
    good = bad.read_text()
    bad.write_text(good + '{"txt": "odd"}\n')
    Path("data/part-0004.jsonl").touch()
    with pytest.raises(InputError, match=r"1 of 5 shards have rows .*part-0001\.jsonl:25: "):
        predict()
    assert len(list(Path("out").glob("*.jsonl"))) == 3
    assert not Path("out/_manifest.json").exists()
    found = predict(skip_bad_rows=True)
    assert (found.totals.rows, found.labelled) == (ROWS + 1, ROWS)
    assert found.totals.failed[0].reason.startswith("part-0001.jsonl: ")
    shards = manifest()["shards"]
    assert [one["rows"] for one in shards] == [24, 25, 24, 24, 0]
    assert [one["without_label"] for one in shards] == [0, 1, 0, 0, 0]
    assert shards[4]["file"] is None


@pytest.mark.parametrize(
    ("name", "empty", "one"),
    [
        ("a.jsonl", "\n \n", '\n{"text": "a"}'),
        ("a.csv", "text\n\n", "text\na\n"),
    ],
)
def test_a_file_without_rows_is_known(tmp_path: Path, name: str, empty: str, one: str) -> None:
    path = tmp_path / name
    shard = Shard(name, path, path, path)
    for content, is_empty in (("", True), (empty, True), (one, False)):
        path.write_text(content)
        assert shard.is_empty() is is_empty


def test_a_folder_has_labels_of_one_run_with_one_set_of_options(predict: Predict) -> None:
    write_shards(Path("data"), reviews(ROWS), 2, ".jsonl")
    predict()
    with pytest.raises(InputError, match=r"this call differs in 'contexts': .*--fresh"):
        predict(contexts=2)
    assert predict(contexts=2, fresh=True).totals.rows == ROWS
    write_shards(Path("more"), reviews(ROWS)[:10], 1, ".jsonl")
    with pytest.raises(InputError, match="would take their place"):
        predict("more/*", contexts=2)
    Path("more/part-0000.jsonl").rename("more/part-0002.jsonl")
    found = predict("more/*", contexts=2)
    assert found.totals.rows == ROWS + 10, "a manifest is about all that is in the folder"


def test_workers_share_the_requests_in_flight(
    url: str, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(Path("data"), reviews(ROWS), 8, ".jsonl")
    given: list[tuple[int, int]] = []

    def labelled(
        _: object, work: predict_ray._Work, workers: int, __: object
    ) -> Iterator[IcmError]:
        given.append((workers, work.server.transport.max_in_flight))
        yield RunError("no worker")

    monkeypatch.setattr(predict_ray, "_labelled", labelled)
    monkeypatch.setattr(predict_ray, "_require_ray", lambda: None)
    for workers, most in ((3, 256), (20, 256), (6, 4)):
        server = Server(url, transport=TransportSettings(max_in_flight=most))
        with pytest.raises(RunError, match="no worker"):
            predict_shards(predictor, "data/*", "out", endpoint=server, workers=workers)
    assert given == [(3, 85), (8, 32), (4, 1)]


def test_the_options_of_one_engine_are_not_for_the_other(predictor: Predictor) -> None:
    folder = str(predictor._folder)
    runner = CliRunner()
    ray = ["--engine", "ray", "-o", "out"]
    done = runner.invoke(cli, ["predict", folder, "a.jsonl", "b.jsonl", *ray])
    assert "--engine ray takes one pattern: put it in quotes" in done.output
    done = runner.invoke(cli, ["predict", folder, "a.jsonl", *ray, "--serve", "gemma-3-270m"])
    assert "--serve and --limit are for --engine local" in done.output
    done = runner.invoke(cli, ["predict", folder, "a.jsonl", "-o", "b.jsonl", "--workers", "3"])
    assert "--address and --workers go with --engine ray" in done.output


def holder_of(lock: Path) -> int | None:
    """The process that has the file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == lock:
                return int(link.parts[2])
        except OSError:
            continue
    return None


def all_end(within_s: float = 20.0) -> bool:
    """Whether all of Ray's workers end that were started from this folder."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        there = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").readlink() == Path.cwd():
                    there.append((process / "cmdline").read_bytes())
        if not any(b"ray::" in command for command in there):
            return True
        time.sleep(0.2)
    return False


def kill_a_worker(labelling: "Popen[bytes]") -> int | None:
    """Kill the first one that has written a batch of a shard and not yet all of it."""
    while labelling.poll() is None:
        for committed in Path("out").glob("*.partial.json"):
            with suppress(FileNotFoundError):
                if not json.loads(committed.read_bytes())["rows_done"]:
                    continue
                worker = holder_of(committed.with_suffix(".lock").absolute())
                if worker is not None:
                    os.kill(worker, signal.SIGKILL)
                    return worker
        time.sleep(0.02)
    return None


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_known_at_once() -> None:
    pytest.importorskip("ray")
    with pytest.raises(RunError, match=r"no Ray cluster can be used at 127\.0\.0\.1:1: "):
        next(predict_ray._labelled([], None, 1, "127.0.0.1:1"))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_a_worker_that_is_killed_costs_its_batch() -> None:
    pytest.importorskip("ray")
    many = 7_500
    write_shards(Path("data"), reviews(many), 3, ".parquet")
    with serving(many, latency_s=0.03) as (url, server):
        predictor = predictor_at(url)
        command = [sys.executable, "-c", "from icm_client.cli.main import main; main()"]
        command += ["predict", str(predictor._folder), "data/*.parquet", "-o", "out"]
        command += ["--gold", "label", "--engine", "ray", "--workers", "2", "-e", url]
        # Ray's own token would be written to the user's home.
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        with Path("said").open("w") as said:
            labelling = Popen(command, env=environment, stdout=said, stderr=said)
            killed = kill_a_worker(labelling)
            status = labelling.wait(timeout=240)
        assert (status, killed is not None) == (0, True), Path("said").read_text()
        assert all_end(), "a worker that outlives the command keeps a core of the cluster"
        for shard in find_shards("data/*", "out"):
            expected = alone(predictor, url, shard.source, Path("a.parquet"))
            assert shard.output.read_bytes() == expected, shard.name
        server.terminate()
        assert server.stdout is not None
        reads = int(server.stdout.readline())
    written = manifest()
    assert written["rows"] == written["labelled"] == many
    assert written["accuracy"] == 1.0
    assert [one["rows"] for one in written["shards"]] == [many // 3] * 3
    assert not list(Path("out").glob("*.partial*"))
    # Twice: on Ray, and alone. The rest is the search, and the batch that was under way.
    assert 2 * many < reads < 2 * many + 2_500 + 40 * MEASURED
