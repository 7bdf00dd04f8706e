"""A promise without its test is none."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text("utf-8"))
    assert len(named) > 30
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        defined = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert test in defined, f"{file}::{test}"


def test_every_promise_has_a_test() -> None:
    promises, _, _ = PAGE.read_text("utf-8").partition("## Figures")
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    for row in rows:
        assert "::test_" in row or row in ("| promise | test |", "| --- | --- |"), row
