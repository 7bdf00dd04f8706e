"""The whole program, run in this process as a shell would run it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import icm_client.runs.server
from icm_client.cli.main import main
from icm_client.errors import SetupError


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


def without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no embedded server start: a dry run, which asks one's tokenizer, goes on without."""

    def start(*_: object) -> None:
        raise SetupError("no server")

    monkeypatch.setattr(icm_client.runs.server, "EmbeddedEndpoint", start)


def whole_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What runs it with some arguments, and returns what it printed and its exit status."""

    def run_main(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["icm-client", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run_main
