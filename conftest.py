"""What all tests share."""

import hypothesis
import pytest

# A busy machine is no fault of an example.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The loop that the openai SDK's aiohttp transport runs on; another may be installed too."""
    return "asyncio"
