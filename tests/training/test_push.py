"""`icm-client export --push` against a hub in this process, with the real library."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from exported_runs import reviews_run, with_result
from hub_server import TOKEN, Hub, hub_server

from icm_client.cli.export import export_command
from icm_client.errors import InputError
from icm_client.record.archive import Run

NAME = "lab/reviews"
Push = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reviews_run(tmp_path_factory.mktemp("reviews"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as found:
        yield found


@pytest.fixture
def push(run: Run, hub: Hub, tmp_path: Path) -> Push:
    """The command in a process of its own: the library reads HF_ENDPOINT when it is imported."""

    def pushed(
        *arguments: str, repository: str = NAME, token: str = TOKEN, of: Run = run, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        named = ["--push", repository, *arguments]
        command = ["export", str(of.path), "--to", "hf", "-o", str(tmp_path / "out"), *named]
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": token,
            **more,
        }
        return subprocess.run(
            [sys.executable, "-m", "icm_client", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return pushed


def test_the_folder_becomes_a_private_repository(push: Push, hub: Hub, tmp_path: Path) -> None:
    done = push()
    assert done.returncode == 0, done.stderr
    assert hub.private == {NAME: True}
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert hub.files[NAME] == written
    assert set(written) == {"README.md", "data/train.parquet"}
    assert hub.commits == ["16 rows labelled by icm-client"]
    assert f"Pushed to {hub.url}/datasets/{NAME} (private)." in done.stdout


def test_it_is_public_on_request_only(push: Push, hub: Hub) -> None:
    done = push("--public", "--json")
    assert done.returncode == 0, done.stderr
    assert hub.private == {NAME: False}
    assert orjson.loads(done.stdout)["pushed"] == f"{hub.url}/datasets/{NAME}"


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_that_is_there_keeps_its_files_and_its_visibility(
    push: Push, hub: Hub, *, private: bool
) -> None:
    hub.private[NAME], hub.files[NAME] = private, {"notes.txt": b"kept"}
    done = push(*([] if private else ["--public"]))
    assert done.returncode == 0, done.stderr
    assert set(hub.files[NAME]) == {"notes.txt", "README.md", "data/train.parquet"}
    assert hub.private == {NAME: private}


@pytest.mark.parametrize(
    ("private", "said"),
    [
        (False, f"{NAME} is there and public: everyone would see these rows"),
        (True, f"{NAME} is there and private: leave out --public"),
    ],
)
def test_rows_are_not_shown_to_others_than_was_asked_for(
    push: Push, hub: Hub, *, private: bool, said: str
) -> None:
    hub.private[NAME], hub.files[NAME] = private, {}
    done = push(*(["--public"] if private else []))
    assert done.returncode == 2
    assert said in done.stderr
    assert not hub.files[NAME]


def test_labels_that_are_not_to_be_trusted_are_pushed_privately_with_a_warning_or_not_at_all(
    push: Push, hub: Hub, tmp_path: Path
) -> None:
    finding = {"severity": "fatal", "message": "They hardly predict each other.", "advice": ""}
    doubtful = with_result(
        reviews_run(tmp_path / "doubtful"),
        lambda result: result.update(verdict="do not trust", findings=[finding]),
    )
    refused = push("--public", of=doubtful)
    assert refused.returncode == 2
    assert 'the verdict on these labels is "do not trust": they are not published' in refused.stderr
    assert not hub.private
    assert "WARNING: DO NOT TRUST THESE LABELS" in refused.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": "hf_another"}, "the hub refuses it (401): log in (hf auth login, or HF_TOKEN)"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_a_hub_that_does_not_take_it_is_said_and_the_folder_stays(
    push: Push, options: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = push(**options)
    assert done.returncode == 2
    assert said in done.stderr
    assert f"hf upload --repo-type dataset {NAME} {tmp_path / 'out'} uploads it too" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize("repository", ["reviews", "a/b/c", "lab/what is this", "lab/-x"])
def test_a_name_that_no_hub_takes_is_refused_before_anything_is_written(
    repository: str, run: Run, tmp_path: Path
) -> None:
    arguments = [str(run.path), "--to", "hf", "-o", str(tmp_path / "out"), "--push", repository]
    done = CliRunner().invoke(export_command, arguments)
    assert isinstance(done.exception, InputError)
    assert f"{repository!r} names no repository" in str(done.exception)
    assert not (tmp_path / "out").exists()
