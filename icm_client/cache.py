"""Where this package keeps its files."""

import os
import stat
from pathlib import Path

import platformdirs

from icm_client.errors import SetupError


def cache_folder() -> Path:
    """Return the folder of scores, models and logs: ICM_CACHE_DIR, or the user's cache folder.

    Raises:
        SetupError: the user has no home folder, as in many containers, and ICM_CACHE_DIR is not
            set.
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
    """Give all files of `file`'s folder its mode, which is that of a new file under the umask.

    safetensors makes its files 0600. Where several people share a folder, or another user's server
    reads it, the model could then not be loaded.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    for other in file.parent.rglob("*"):
        if other.is_file():
            other.chmod(mode)
