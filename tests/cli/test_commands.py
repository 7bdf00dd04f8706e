"""The list of commands says what each says of itself, and costs no import."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

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


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_every_option_in_lines_that_fit(name: str, columns: int) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"], terminal_width=columns - 2).output
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert re.search(rf"^  .*?{parameter.opts[-1]}(?![\w-])", shown, re.MULTILINE)
    options = re.split(r"^\w[\w ]*:$", shown, maxsplit=1, flags=re.MULTILINE)[1]
    assert max(map(len, options.splitlines())) < columns


def test_the_sections_of_label_come_in_the_order_of_the_work() -> None:
    shown = CliRunner().invoke(cli, ["label", "--help"]).output
    assert re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE) == [
        "Task",
        "Data",
        "Output",
        "Server",
        "Search",
        "Constraint",
        "Training",
        "Limits",
        "Record",
        "Run file",
        "Options",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lable"], "'label'"),
        (["runs", "lits"], "Did you mean 'list'?"),
        (["label", "x.csv", "--tempalte", "x"], "'--template'"),
    ],
)
def test_what_is_nearly_a_name_is_answered_with_the_name(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "Did you mean" in done.output
    assert told in done.output


def test_the_package_is_the_program() -> None:
    asked = [sys.executable, "-m", "icm_client", "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout == f"icm-client, version {icm_client.__version__}\n"
