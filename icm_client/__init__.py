"""Labels for unlabelled data: those a served base model finds most mutually predictable.

Internal Coherence Maximization, arXiv 2506.10139.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icm_client.coherence.fast import SweepSettings
    from icm_client.coherence.result import SweepRecord
    from icm_client.data import Dataset, LabelledRow, Row, Task, read_rows, rows_from
    from icm_client.endpoints import EmbeddedEndpoint, connect
    from icm_client.errors import IcmError
    from icm_client.runs.client import Client, LabelJob
    from icm_client.runs.label import label, label_sync
    from icm_client.runs.progress import Cost, Progress
    from icm_client.runs.result import Labels
    from icm_client.runs.server import Server
    from icm_client.verdict.diagnosis import Finding

__version__ = "0.1.0"

# What a run waits for (warning) and its sweeps (info), for programs that want to hear of it.
logging.getLogger("icm_client").addHandler(logging.NullHandler())

__all__ = [
    "Client",
    "Cost",
    "Dataset",
    "EmbeddedEndpoint",
    "Finding",
    "IcmError",
    "LabelJob",
    "LabelledRow",
    "Labels",
    "Progress",
    "Row",
    "Server",
    "SweepRecord",
    "SweepSettings",
    "Task",
    "__version__",
    "connect",
    "label",
    "label_sync",
    "read_rows",
    "rows_from",
]

# Imported when first asked for: a command's help and a shell's completion need none of it, and the
# servers' client alone takes half a second.
_HOMES = {
    "verdict.diagnosis": ("Finding",),
    "coherence.fast": ("SweepSettings",),
    "coherence.result": ("SweepRecord",),
    "data": ("Dataset", "LabelledRow", "Row", "Task", "read_rows", "rows_from"),
    "endpoints": ("EmbeddedEndpoint", "connect"),
    "errors": ("IcmError",),
    "runs.client": ("Client", "LabelJob"),
    "runs.label": ("label", "label_sync"),
    "runs.progress": ("Cost", "Progress"),
    "runs.result": ("Labels",),
    "runs.server": ("Server",),
}

if not TYPE_CHECKING:  # a type checker is to refuse names that are not there

    def __getattr__(name: str) -> object:
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
