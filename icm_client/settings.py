"""What the environment says: ICM_ENDPOINT, ICM_MODEL, ICM_API_KEY."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Environment(BaseSettings):
    """Defaults taken from the environment; arguments and options win over them.

    Attributes:
        endpoint: base URL of a server (`ICM_ENDPOINT`); None means the embedded server.
        model: which of the server's models (`ICM_MODEL`).
        api_key: sent as a bearer token (`ICM_API_KEY`); never printed.

    `ICM_CACHE_DIR`, the folder of the score store and the joined model, is read where files lie.
    """

    model_config = SettingsConfigDict(env_prefix="ICM_", env_ignore_empty=True, extra="ignore")

    endpoint: str | None = None
    model: str | None = None
    api_key: SecretStr | None = None
