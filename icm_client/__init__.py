"""Labels for unlabelled data: those a served base model finds most mutually predictable.

Internal Coherence Maximization, arXiv 2506.10139.
"""

from icm_client.analysis.diagnosis import Finding
from icm_client.coherence.settings import SweepSettings
from icm_client.coherence.sweep import SweepRecord
from icm_client.data import Dataset, LabelledRow, Row, Task, read_rows, rows_from
from icm_client.endpoints import EmbeddedEndpoint, connect
from icm_client.errors import IcmError
from icm_client.runs.client import Client, LabelJob
from icm_client.runs.label import label, label_sync
from icm_client.runs.progress import Cost, Progress
from icm_client.runs.result import Labels
from icm_client.runs.server import Server

__version__ = "0.1.0"

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
