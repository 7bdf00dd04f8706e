"""`icm-client store` as a user meets it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from icm_client.cli.store import store_group
from icm_client.endpoints import Answer, Exactness, Read, ServerIdentity
from icm_client.errors import InputError
from icm_client.scoring import ScoreStore, default_path

READS = [Read((1, number), (5, 7)) for number in range(40)]
ANSWER = Answer((-0.1, -2.5), Exactness.EXACT)
Run = Callable[..., Result]


@pytest.fixture
def path() -> Path:
    """The user's own store, with 40 answers."""
    with ScoreStore.open(default_path()) as store:
        store.record_server(ServerIdentity("vllm", "base-model", 100, "0123456789abcdef"))
        store.put_many("0123456789abcdef", READS, [ANSWER] * len(READS))
        store.put_tokens("0123456789abcdef", ["a"], [(3,)], add_special=True)
    return default_path()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(store_group, list(map(str, arguments)))


def as_json(*arguments: str | Path) -> dict[str, object]:
    done = run(*arguments, "--json")
    found: dict[str, object] = orjson.loads(done.stdout)
    return found


def damage(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE scores SET checksum = checksum + 1 WHERE key = (SELECT max(key) FROM scores)"
    )
    connection.commit()
    connection.close()


def test_info_says_where_the_store_is_and_whose_answers_are_in_it(path: Path) -> None:
    done = run("info")
    assert done.exit_code == 0
    for word in (str(path), "40", "base-model (vllm) 0123456789ab", "1 texts"):
        assert word in done.stdout
    found = as_json("info")
    assert found["scores"] == 40
    servers = found["servers"]
    assert isinstance(servers, list)
    assert servers[0]["model"] == "base-model"


def test_check_finds_what_is_bad_and_repairs_only_where_asked(path: Path) -> None:
    assert run("check").exit_code == 0
    assert as_json("check")["whole"] is True
    damage(path)
    for _ in range(2):
        done = run("check")
        assert done.exit_code == 1
        assert "40 scores looked at, 1 bad" in done.stdout
        assert "--repair" in done.stdout
    mended = run("check", "--repair")
    assert mended.exit_code == 1
    assert "Dropped what was bad." in mended.stdout
    assert run("check").exit_code == 0
    assert as_json("info")["scores"] == 39


@pytest.mark.usefixtures("path")
def test_prune_only_says_what_would_go_without_yes() -> None:
    done = run("prune", "--model", "base-model")
    assert done.exit_code == 0
    assert "Would drop 40 scores and 1 texts; 0 scores stay. With --yes it is done." in done.stdout
    assert as_json("info")["scores"] == 40
    assert as_json("prune", "--older-than", "30d")["scores"] == 0
    assert as_json("prune", "--older-than", "0m", "--model", "base-model", "--yes")["done"] is True
    assert as_json("info")["scores"] in (0, 40)  # what is of this very second is not older
    assert "Dropped" in run("prune", "--model", "base-model", "--yes").stdout
    assert as_json("info")["scores"] == 0


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune"], "Say what goes"),
        (["prune", "--older-than", "soon"], "no age such as 12h, 30d"),
        (["prune", "--older-than", "-3d"], "no age"),
        (["info", "--model", "x"], "No such option"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_export_and_import_carry_everything(path: Path, tmp_path: Path) -> None:
    damage(path)
    lines, copy = tmp_path / "scores.jsonl", tmp_path / "copy.sqlite3"
    out = run("export", lines)
    assert out.exit_code == 0
    assert "Wrote 39 scores and 1 texts" in out.stdout
    assert "1 damaged rows were left out" in out.stderr
    assert as_json("import", lines, "--store", copy)["scores"] == 39
    again = run("import", lines, "--store", copy)
    assert "Added 0 scores and 0 texts; 40 were there." in again.stdout
    with ScoreStore.open(copy) as store:
        found = store.get_many("0123456789abcdef", READS)
    assert found.count(ANSWER) == 39


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "missing.sqlite3"
    done = run("info", "--store", missing)
    assert isinstance(done.exception, InputError)
    assert "no score store at" in str(done.exception)
    assert not missing.exists()
