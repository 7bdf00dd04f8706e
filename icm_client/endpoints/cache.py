"""Where this package keeps its files."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return where scores, models and logs are kept: ICM_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("ICM_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("icm-client")
