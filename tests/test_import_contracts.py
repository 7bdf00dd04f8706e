"""The rooms of the package import one another in one direction: docs/architecture.md."""

import logging.config
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
CONTRACTS = [
    contract["id"]
    for contract in tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_contract_is_kept(
    contract: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would disable our loggers for the tests that follow in this process.
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
    status = lint_imports(
        config_filename=str(PYPROJECT), limit_to_contracts=(contract,), no_cache=True
    )
    assert status == 0, capsys.readouterr().out
