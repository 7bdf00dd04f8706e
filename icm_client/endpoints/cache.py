"""Where this package keeps its files."""

import os
from pathlib import Path

import platformdirs

from icm_client.errors import SetupError


def cache_folder() -> Path:
    """Return where scores, models and logs are kept: ICM_CACHE_DIR, or the user's cache folder.

    Raises:
        SetupError: the user has no home folder, as many a container's has not, and it takes one to
            find the place.
    """
    chosen = os.environ.get("ICM_CACHE_DIR")
    try:
        return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("icm-client")
    except RuntimeError:
        raise SetupError(
            "there is no place for scores and models, since this user has no home folder: set "
            "ICM_CACHE_DIR to the absolute path of a folder that can be written"
        ) from None
