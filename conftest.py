"""What all tests share."""

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The loop that the openai SDK's aiohttp transport runs on; another may be installed too."""
    return "asyncio"
