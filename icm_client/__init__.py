"""Labels for unlabelled data: those that a served base model finds most mutually predictable.

Internal Coherence Maximization, arXiv 2506.10139.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icm_client.coherence.anneal import AnnealSettings
    from icm_client.coherence.anneal_official import OfficialSettings
    from icm_client.coherence.folds import FoldSettings
    from icm_client.coherence.iterate import IterateSettings
    from icm_client.coherence.result import Step, SweepRecord
    from icm_client.coherence.settings import SweepSettings
    from icm_client.coherence.simple import FewShotSettings, ZeroShotSettings
    from icm_client.data import Dataset, FileOptions, LabelledRow, Row, Task, read_rows, rows_from
    from icm_client.data.constraint_spec import ConstraintSpec
    from icm_client.endpoints import EmbeddedEndpoint, TransportSettings, connect
    from icm_client.errors import IcmError, InputError, RunStopped
    from icm_client.runs.client import Client, LabelJob
    from icm_client.runs.label import label, label_sync
    from icm_client.runs.predictor import Predictor
    from icm_client.runs.progress import Budget, Cost, Progress
    from icm_client.runs.result import Labels
    from icm_client.runs.server import Server
    from icm_client.verdict.diagnosis import Finding

__version__ = "0.1.0"

# A run logs its waits (warning) and its sweeps (info); silent until a program sets logging up.
logging.getLogger("icm_client").addHandler(logging.NullHandler())

__all__ = [
    "AnnealSettings",
    "Budget",
    "Client",
    "ConstraintSpec",
    "Cost",
    "Dataset",
    "EmbeddedEndpoint",
    "FewShotSettings",
    "FileOptions",
    "Finding",
    "FoldSettings",
    "IcmError",
    "InputError",
    "IterateSettings",
    "LabelJob",
    "LabelledRow",
    "Labels",
    "OfficialSettings",
    "Predictor",
    "Progress",
    "Row",
    "RunStopped",
    "Server",
    "Step",
    "SweepRecord",
    "SweepSettings",
    "Task",
    "TransportSettings",
    "ZeroShotSettings",
    "__version__",
    "connect",
    "label",
    "label_sync",
    "read_rows",
    "rows_from",
]

# Imported on first use: a command's help and a shell's completion need none of it, and the servers'
# client alone takes half a second.
_HOMES = {
    "coherence.anneal": ("AnnealSettings",),
    "coherence.anneal_official": ("OfficialSettings",),
    "coherence.settings": ("SweepSettings",),
    "coherence.simple": ("FewShotSettings", "ZeroShotSettings"),
    "coherence.folds": ("FoldSettings",),
    "coherence.iterate": ("IterateSettings",),
    "coherence.result": ("Step", "SweepRecord"),
    "data": ("Dataset", "FileOptions", "LabelledRow", "Row", "Task", "read_rows", "rows_from"),
    "data.constraint_spec": ("ConstraintSpec",),
    "endpoints": ("EmbeddedEndpoint", "TransportSettings", "connect"),
    "errors": ("IcmError", "InputError", "RunStopped"),
    "runs.client": ("Client", "LabelJob"),
    "runs.label": ("label", "label_sync"),
    "runs.predictor": ("Predictor",),
    "runs.progress": ("Budget", "Cost", "Progress"),
    "runs.result": ("Labels",),
    "runs.server": ("Server",),
    "verdict.diagnosis": ("Finding",),
}

if not TYPE_CHECKING:  # so that a type checker refuses unknown names

    def __getattr__(name: str) -> object:
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
