"""What all tests share: a folder of their own, the embedded model, and which of them are slow."""

import os
from pathlib import Path

import hypothesis
import pytest

from icm_client.endpoints import gemma
from icm_client.endpoints.gguf import remember_sha256

# A busy machine is not an example's fault.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")

_USERS = ("FORCE_COLOR", "TTY_COMPATIBLE", "VLLM_API_KEY")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The loop of the tests: asyncio, on which aiohttp runs, or that of ICM_TEST_LOOP."""
    return os.environ.get("ICM_TEST_LOOP", "asyncio")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, with a cache folder in it, and without the user's settings.

    Child processes inherit all of this. `scripts/test-vllm` keeps the user's cache folder: its
    server takes a minute to dequantize a model into a new one.
    """
    if "ICM_TEST_VLLM_PYTHON" in os.environ:
        return
    for name in list(os.environ):
        if name in _USERS or name.startswith("ICM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ICM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def users_model() -> Path:
    """The embedded model in the user's cache folder, where it is joined once."""
    return gemma.model_path()


@pytest.fixture
def embedded_model(own_folder: None, users_model: Path) -> Path:  # noqa: ARG001 - its cache folder
    """Link the embedded model into the test's cache folder, so that it is not joined again."""
    linked = Path(os.environ["ICM_CACHE_DIR"]) / "models" / users_model.name
    linked.parent.mkdir(parents=True)
    linked.symlink_to(users_model)
    remember_sha256(linked, gemma.SHA256)
    return linked


_SLOW = {"users_model", "chromium"}
_MODEL = "embedded model"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `scripts/test --fast` leaves out, and what one of several workers runs together.

    Slow is what starts the embedded model or a browser, and what is marked so. Tests of one file
    stay together where they share a fixture, and so do all that start the embedded model, since
    each of its servers takes every core. All others are spread one by one.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & _SLOW:
            item.add_marker("slow")
        if "users_model" in fixtures:
            item.add_marker(pytest.mark.xdist_group(_MODEL))
        elif _shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


def _shares_a_fixture(item: pytest.Item) -> bool:
    """Whether a fixture of the tests' own outlives the test."""
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - pytest's own
    return any(one.scope != "function" and one.baseid for every in definitions for one in every)
