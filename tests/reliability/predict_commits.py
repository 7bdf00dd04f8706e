"""Predictions in processes that kill themselves (SIGKILL) at one of their commits.

`python predict_commits.py FOLDER` works as `commit_points.py` does. FOLDER has a run of these rows
in `runs`, and new rows in `rows.jsonl`; each process begins with a copy of the run.
"""

import shutil
import sys
from pathlib import Path

from commit_points import SETTINGS, TASK, Counted, serve, texts

from icm_client import label
from icm_client.data.values import write_json
from icm_client.runs.predict_file import Predicted, predict_file
from icm_client.runs.predictor import Predictor
from icm_client.scoring import open_store

NEW = 3
"""New rows; the others of `texts` are searched."""

BATCH = 2


async def search(base: Path) -> None:
    """Make the run, and the file of the new rows."""
    await label(
        texts()[:-NEW],
        task=TASK,
        endpoint=Counted(base),
        settings=SETTINGS,
        store=base / "store",
        runs=base / "runs",
    )
    rows = [write_json({"text": text}) + b"\n" for text in texts()[-NEW:]]
    (base / "rows.jsonl").write_bytes(b"".join(rows))


def begin(folder: Path) -> None:
    """Copy the run."""
    if not (folder / "runs").exists():
        shutil.copytree(folder.parent / "runs", folder / "runs")


async def predict(folder: Path) -> Predicted:
    """What the command line does."""
    (run,) = (folder / "runs").iterdir()
    with open_store(folder / "cache" / "store") as store:
        return await predict_file(
            Predictor.load(run),
            folder.parent / "rows.jsonl",
            folder / "labels.csv",
            endpoint=Counted(folder),
            store=store,
            batch=BATCH,
        )


if __name__ == "__main__":
    serve(predict, Path(sys.argv[1]), begin)
