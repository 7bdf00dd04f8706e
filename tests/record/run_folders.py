"""Descriptions of runs, and runs that are done, for the tests of this folder."""

from collections.abc import Mapping
from pathlib import Path

import orjson
from planted_reviews import TASK, data, reviews

from icm_client import Task
from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.endpoints import ServerIdentity
from icm_client.record.description import RunDescription
from icm_client.record.folder import RunFolder

SERVER = ServerIdentity("vllm", "model", 4096, "f" * 32)
SETTINGS: Mapping[str, JsonValue] = {"preset": "fast", "demos": 64}


def described(
    rows: int = 8, task: Task = TASK, server: ServerIdentity = SERVER, seed: int = 0, **own: int
) -> RunDescription:
    job = Job.prepare(data(reviews(rows, task)), task)
    return RunDescription.of(job, {**SETTINGS, **own}, seed, server)


def finished(base: Path, description: RunDescription, labels: str = "positive") -> str:
    def write(path: Path) -> None:
        path.write_bytes(
            b"".join(
                orjson.dumps({**row, "id": n, "label": labels}, option=orjson.OPT_APPEND_NEWLINE)
                for n, row in enumerate(reviews(8), start=1)
            )
        )

    with RunFolder.open(description, base=base) as folder:
        folder.finish({"coherence": 0.5}, write)
    return folder.name
