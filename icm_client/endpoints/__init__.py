"""Who answers: a server behind a URL, or the embedded llama.cpp server.

`connect(url)` finds out which kind of server it is; `EmbeddedEndpoint()` needs no server. Both give
an `Endpoint` (`protocol`): one-token reads of label tokens, each with its exactness. The docstring
of `transport` follows one request through its attempts, and names the file that decides each step.

To add a kind of server:

1. Write a file beside `vllm.py`. Its class derives from `served.TokenPrompts` if the server takes
   token ids (`sglang.py` is the shortest example), from `texts.TextPrompts` if it takes text
   (`EchoEndpoint` in `prompt_logprobs.py`), or from `served.ServedEndpoint` if prefixes are cached
   in lanes (`llama_cpp.py`). It has these methods:
   `open`: asks who answers, fingerprints all that can change a log-prob, and calls `_guarded`;
   `tokenize` and `_read` (token ids), or `find_label_token`, `read` and `_asked_again` (text);
   `warm`: has a prefix prefilled; `read_sampled`, if sampling settings can be sent.
   It sends with `transport.post(..., scoring=True)`, takes log-probs only through
   `parsing.log_prob`, raises `LabelMissing` or `PromptTooLong` where an answer shows that, and
   counts tokens with `_count`.
2. In `connect.py`, add its name to `Kind`, how it is recognized to `_OWNERS` or `_ROUTES`, and
   its class to `_NATIVE` and `ServedModel`.
3. In `tests/endpoints`, write tests with answers as the server gives them (`test_sglang.py`), and
   add the kind to the test of `connect` in `test_vllm_llama_connect.py`. Describe it in
   `docs/servers.md`.
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
