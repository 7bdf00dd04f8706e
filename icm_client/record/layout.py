"""The files of a run's folder, and the folder of all runs. `folder.py` says what each holds."""

from pathlib import Path
from typing import Final

FORMAT: Final = 1
"""The version of run.json."""

RECORD: Final = "run.json"
JOURNAL: Final = "journal.jsonl"
LABELS: Final = "labels.jsonl"
RESULT: Final = "result.json"
CHECKED: Final = "checked.jsonl"
REPORT: Final = "report.html"
WHY: Final = "why.jsonl"
LOCK: Final = "lock"

DEFAULT_BASE: Final = Path("runs")
