"""Processes that label a file into a sink, and kill themselves (SIGKILL) at one commit point.

`python sink_commits.py FOLDER ENDING` labels FOLDER/rows.jsonl into FOLDER/N/labels.ENDING for each
commit point N, and after the kill once more without one. Each line that it writes is the names and
the bytes of what is in that folder then, as JSON; the last is of a run without a kill.
"""

import json
import os
import signal
import sys
from pathlib import Path

from commit_points import Commits

from icm_client.data import LabelledRow, Task
from icm_client.data.job import Job
from icm_client.data.label_sink import LabelSink
from icm_client.data.row_batches import row_batches

TASK = Task.model_validate(
    {
        "template": "{text}:",
        "labels": ["yes", "no"],
        "gold": "truth",
        "constraint": {"kind": "exactly-one", "group": "q"},
    }
)


def run(rows: Path, output: Path) -> None:
    with LabelSink.open(output, identity="these rows") as sink:
        batches = row_batches(rows, size=2, task=TASK, skip_bad_rows=True, after=sink.rows_done)
        for batch in batches:
            dataset = Job.prepare(batch, TASK, skip_bad_rows=True).dataset
            n_skipped = sink.state.get("skipped", 0)
            assert isinstance(n_skipped, int)
            assert n_skipped == sink.rows_done - sink.rows_labelled
            sink.append(
                [
                    LabelledRow(row, TASK.labels[int(row.id) % 2], 0.5, {"yes": -0.1}, "exact")
                    for row in dataset.rows
                ],
                rows_read=len(batch.rows) + len(batch.skipped),
                state={"skipped": n_skipped + len(dataset.skipped)},
                gold=dataset.gold,
                gold_field=dataset.gold_field,
            )
        sink.finish()


def patch(commits: Commits) -> None:
    for name in ("open", "replace", "unlink", "touch", "chmod"):
        commits.around(Path, name)
    commits.around(os, "fsync")
    commits.around(os, "truncate")


def killed(rows: Path, output: Path, number: int) -> bool:
    """Run in another process, and return whether it was killed."""
    child = os.fork()
    if not child:
        patch(Commits(number))
        run(rows, output)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def main() -> None:
    folder, ending = Path(sys.argv[1]), sys.argv[2]
    number, is_killed = 0, True
    while is_killed:
        own = folder / str(number)
        own.mkdir()
        output = own / f"labels{ending}"
        output.write_bytes(b"of an earlier run")
        is_killed = killed(folder / "rows.jsonl", output, number)
        before = output.read_bytes().hex()
        if is_killed:
            assert not killed(folder / "rows.jsonl", output, -1)
        found = {path.name: path.read_bytes().hex() for path in own.iterdir()}
        print(json.dumps({"before": before, "found": found}))  # noqa: T201
        number += 1


if __name__ == "__main__":
    main()
