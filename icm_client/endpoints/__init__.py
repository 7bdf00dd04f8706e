"""Who answers: a server behind a URL, or the embedded llama.cpp server.

`connect(url)` finds out which server stands behind a URL; `EmbeddedEndpoint()` needs none. Both
give an `Endpoint`: one-token reads of label tokens, each with its exactness.
"""

from icm_client.endpoints.connect import KINDS, Kind, connect
from icm_client.endpoints.embedded import EmbeddedEndpoint
from icm_client.endpoints.llama_cpp import LlamaCppEndpoint
from icm_client.endpoints.openai_top_k import OpenAITopKEndpoint
from icm_client.endpoints.prompt_logprobs import EchoEndpoint, PromptLogProbsEndpoint
from icm_client.endpoints.protocol import (
    Answer,
    Endpoint,
    Exactness,
    LabelToken,
    NoticingEndpoint,
    Read,
    SampledEndpoint,
    ServerIdentity,
    TextEndpoint,
    TokenIds,
    Usage,
    worst,
)
from icm_client.endpoints.settings import (
    GoodNeighbour,
    LimitChange,
    RetryPolicy,
    TransportSettings,
    Waiting,
    WireEvent,
)
from icm_client.endpoints.sglang import SglangEndpoint
from icm_client.endpoints.transport import Transport
from icm_client.endpoints.vllm import VllmEndpoint

__all__ = [
    "KINDS",
    "Answer",
    "EchoEndpoint",
    "EmbeddedEndpoint",
    "Endpoint",
    "Exactness",
    "GoodNeighbour",
    "Kind",
    "LabelToken",
    "LimitChange",
    "LlamaCppEndpoint",
    "NoticingEndpoint",
    "OpenAITopKEndpoint",
    "PromptLogProbsEndpoint",
    "Read",
    "RetryPolicy",
    "SampledEndpoint",
    "ServerIdentity",
    "SglangEndpoint",
    "TextEndpoint",
    "TokenIds",
    "Transport",
    "TransportSettings",
    "Usage",
    "VllmEndpoint",
    "Waiting",
    "WireEvent",
    "connect",
    "worst",
]
