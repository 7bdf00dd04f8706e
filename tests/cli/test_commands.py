"""The list of commands says what each says of itself, and costs no import."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

import icm_client
from icm_client.cli.main import COMMANDS, cli


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_is_what_the_list_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.name, command.short_help) == (name, COMMANDS[name][1])


def test_help_and_completion_import_nothing_that_takes_long() -> None:
    slow = "{'openai', 'aiohttp', 'numpy', 'pydantic', 'torch', 'rich'}"
    asked = f"import sys, icm_client.cli.main; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_list_of_runs_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    """With 200 runs it takes 0.3 s; the servers' client alone would take as long."""
    slow = "{'openai', 'aiohttp', 'numpy', 'pydantic', 'torch'}"
    asked = (
        "import sys\nfrom icm_client.cli.main import cli\n"
        "cli(['runs', 'list'], standalone_mode=False)\n"
        f"print(sorted({slow} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "No runs in runs.\n[]\n"


def test_all_that_is_promised_is_there() -> None:
    for name in icm_client.__all__:
        assert getattr(icm_client, name) is not None
    assert set(icm_client.__all__) <= set(dir(icm_client))
    with pytest.raises(AttributeError, match="labels"):
        _ = icm_client.labels  # type: ignore[attr-defined]
