"""Every name on the paper's page stands where the page says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "paper_index.md").read_text("utf-8").splitlines()
    if line.startswith("|") and not line.startswith("| ---")
]


def references(column: int) -> list[str]:
    named = (re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?(?:::\w+)?)`", row[column]) for row in ROWS)
    return sorted({reference for found in named for reference in found})


@pytest.mark.parametrize("reference", references(1))
def test_code_is_there(reference: str) -> None:
    path, _, name = reference.partition("::")
    where = ROOT / "icm_client" / path
    assert where.exists()
    if name:
        assert re.search(
            rf"^(?:async def|def|class) {name}\b|^{name}\b", where.read_text(), re.MULTILINE
        )


@pytest.mark.parametrize("reference", references(2))
def test_tests_are_there(reference: str) -> None:
    path, _, name = reference.partition("::")
    where = ROOT / "tests" / path
    assert where.exists()
    if name:
        assert re.search(rf"^(?:async def|def) {name}\b", where.read_text("utf-8"), re.MULTILINE)


def test_the_page_has_something_to_look_for() -> None:
    assert len(references(1)) > 20
    assert len(references(2)) > 20
