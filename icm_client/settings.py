"""Settings from the environment: ICM_ENDPOINT, ICM_MODEL, ICM_API_KEY, ICM_API_KEY_FILE."""

import os
import stat
from pathlib import Path
from typing import Final, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from icm_client.errors import InputError

_LONGEST_KEY: Final = 16_384
"""Bytes. A longer file is not a key's."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Environment(BaseSettings):
    """Defaults from the environment; arguments and options override them.

    Attributes:
        endpoint: base URL of a server (`ICM_ENDPOINT`); None stands for the embedded server.
        model: which of the server's models (`ICM_MODEL`).
        api_key: sent as a bearer token (`ICM_API_KEY`, else the content of `ICM_API_KEY_FILE`);
            never printed.
        api_key_file: a file that holds nothing but the key, and that only its owner may read
            (`ICM_API_KEY_FILE`). It is read at once, unless `ICM_API_KEY` is set.

    `ICM_CACHE_DIR`, the folder of the score store, models and logs, is read elsewhere
    (`icm_client.cache`).

    Raises:
        InputError: the key's file cannot be used.
    """

    model_config = SettingsConfigDict(
        env_prefix="ICM_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    endpoint: str | None = None
    model: str | None = None
    api_key: SecretStr | None = None
    api_key_file: Path | None = None

    @model_validator(mode="after")
    def _read_key(self) -> Self:
        if self.api_key is None and self.api_key_file is not None:
            self.api_key = read_key(self.api_key_file)
        return self


def read_key(path: Path) -> SecretStr:
    """The key in `path`.

    Raises:
        InputError: it cannot be read, users other than its owner have access to it, or it does not
            hold one line with a key.
    """
    try:
        with path.open("rb") as file:
            # The mode of the open file: the name may stand for another one by now. Windows has no
            # such bits.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) if os.name == "posix" else 0
            content = b"" if mode & _OTHERS else file.read(_LONGEST_KEY + 1)
    except OSError as error:
        raise InputError(f"the key's file {path} cannot be read: {error.strerror}") from None
    if mode & _OTHERS:
        raise InputError(
            f"the key's file {path} is open to users other than its owner (mode {mode:04o}): run "
            f"`chmod 600 {path}`, and replace the key if others may have read it"
        )
    key = content.strip()
    if not key or len(content) > _LONGEST_KEY or len(key.split()) != 1 or not key.isascii():
        raise InputError(f"the key's file {path} must hold one line: the key, and nothing else")
    return SecretStr(key.decode("ascii"))
