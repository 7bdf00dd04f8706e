"""Who answers: vLLM, llama.cpp, or the embedded llama.cpp server.

`connect(url)` finds out which server stands behind a URL; `EmbeddedEndpoint()` needs none. Both
give an `Endpoint`: one-token reads of label tokens.
"""

from icm_client.endpoints.connect import connect
from icm_client.endpoints.embedded import EmbeddedEndpoint
from icm_client.endpoints.llama_cpp import LlamaCppEndpoint
from icm_client.endpoints.protocol import (
    Answer,
    Endpoint,
    Exactness,
    Read,
    ServerIdentity,
    TokenIds,
    Usage,
)
from icm_client.endpoints.settings import RetryPolicy, TransportSettings
from icm_client.endpoints.transport import Transport
from icm_client.endpoints.vllm import VllmEndpoint

__all__ = [
    "Answer",
    "EmbeddedEndpoint",
    "Endpoint",
    "Exactness",
    "LlamaCppEndpoint",
    "Read",
    "RetryPolicy",
    "ServerIdentity",
    "TokenIds",
    "Transport",
    "TransportSettings",
    "Usage",
    "VllmEndpoint",
    "connect",
]
