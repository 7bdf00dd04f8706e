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
    """The loop that the openai SDK's aiohttp transport runs on; another may be installed too."""
    return "asyncio"


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
