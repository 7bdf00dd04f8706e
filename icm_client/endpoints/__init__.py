"""Who answers: a server behind a URL, or the embedded llama.cpp server.

`connect(url)` finds out which kind of server it is; `EmbeddedEndpoint()` needs no server. Both give
an `Endpoint` (`protocol`): one-token reads of label tokens, each with its exactness. The docstring
of `transport` follows one request through its attempts, and names the file that decides each step.

To add a kind of server:

1. Write a file beside `sglang.py`, the shortest. The class in it derives

   * from `served.TokenPrompts` if the server takes token ids and schedules requests by itself. It
     has `_kind` and `_server` (names), `_facts` (what else can change a log-prob), `_read` and
     `warm` (the requests).
   * from `served.TextPrompts` if the server takes text, as `EchoEndpoint` in `echo.py`.
     It has `open`, `find_label_token`, `read`, `_asked_again` and `warm`.
   * from `served.ServedEndpoint` if its prefix caches are lanes, as `llama_cpp.py`.

   It sends with `transport.post(..., scoring=True)`, parses with `parsing.parsed`, takes each
   log-prob through `parsing.log_prob`, raises `LabelMissing` for a label that is not in the answer
   and `PromptTooLong` for a prompt that was cut, and counts tokens with `_count`.
2. In `connect.py`, add its name to `Kind`, how it is recognized to `_OWNERS` or `_ROUTES`, and
   its class to `_NATIVE` and `ServedModel`.
3. In `tests/endpoints`, write tests with answers as the server gives them (`test_sglang.py`), and
   add the kind to `test_connect.py`. Describe it in `docs/servers.md`.
"""

from icm_client.endpoints.connect import KINDS, Kind, connect
from icm_client.endpoints.echo import EchoEndpoint
from icm_client.endpoints.embedded import EmbeddedEndpoint
from icm_client.endpoints.llama_cpp import LlamaCppEndpoint
from icm_client.endpoints.openai_top_k import OpenAITopKEndpoint
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
from icm_client.endpoints.vllm import PromptLogProbsEndpoint, VllmEndpoint

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
