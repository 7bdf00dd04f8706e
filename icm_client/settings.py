"""What the environment says: ICM_ENDPOINT, ICM_MODEL, ICM_API_KEY, ICM_API_KEY_FILE."""

import os
import stat
from pathlib import Path
from typing import Final, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from icm_client.errors import InputError

_LONGEST_KEY: Final = 16_384
"""Bytes of a key's file; a key is shorter by far."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Environment(BaseSettings):
    """Defaults taken from the environment; arguments and options win over them.

    Attributes:
        endpoint: base URL of a server (`ICM_ENDPOINT`); None means the embedded server.
        model: which of the server's models (`ICM_MODEL`).
        api_key: sent as a bearer token (`ICM_API_KEY`, else what `ICM_API_KEY_FILE` holds); never
            printed.
        api_key_file: a file that holds the key and nothing else, and that only its owner may read
            (`ICM_API_KEY_FILE`). Read when this is made, unless `ICM_API_KEY` is set.

    `ICM_CACHE_DIR`, the folder of the score store and the joined model, is read where files lie.

    Raises:
        InputError: the key's file cannot be used; says why and what to do.
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
        InputError: it cannot be read, others than its owner may read or write it, or it does not
            hold one line with a key.
    """
    try:
        with path.open("rb") as file:
            # Of what was opened: the name may mean another file by now. Windows keeps no such bits.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) if os.name == "posix" else 0
            held = b"" if mode & _OTHERS else file.read(_LONGEST_KEY + 1)
    except OSError as error:
        raise InputError(f"the key's file {path} cannot be read: {error.strerror}") from None
    if mode & _OTHERS:
        raise InputError(
            f"the key's file {path} is open to others than its owner (mode {mode:04o}): run "
            f"`chmod 600 {path}`, and have the key replaced if others may have read it"
        )
    key = held.strip()
    if not key or len(held) > _LONGEST_KEY or len(key.split()) != 1 or not key.isascii():
        raise InputError(f"the key's file {path} must hold one line: the key, and nothing else")
    return SecretStr(key.decode("ascii"))
