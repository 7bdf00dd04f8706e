"""Where this package keeps its files."""

import os
import stat
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


def share_like(file: Path) -> None:
    """Give all files of `file`'s folder its mode: that of a new file, as the umask says.

    safetensors makes its files 0600. In a folder that several people share, or that a server of
    another user reads, a model would then be there and could not be loaded.

    Raises:
        OSError: a file is not this user's.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    for other in file.parent.rglob("*"):
        if other.is_file():
            other.chmod(mode)
