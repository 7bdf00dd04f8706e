"""What is asked of the server: runs of the command line, and single reads."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_server import MODEL, PYTHON, ROOT, VllmServer

from icm_client.data.job import Job
from icm_client.endpoints import EmbeddedEndpoint, Read, TokenIds, VllmEndpoint, connect, gemma
from icm_client.serving.hardware import detect
from icm_client.serving.model import folder_for

ON_A_GPU = bool(detect().gpus)

ONE_SERVER = 1e-4 if not ON_A_GPU else 0.05
"""Nats between two ways to the same log-prob of one server: another batch, no cache."""
OTHER_ENGINE = 1e-3 if not ON_A_GPU else 0.1
"""Nats between vLLM and transformers: float32 sums in another order; on a GPU bfloat16."""

SAMPLE = ROOT / "examples" / "movie_reviews"
SAMPLE_ROWS = SAMPLE / "movie_reviews.jsonl"
COMMAND = Path(sys.executable).with_name("icm-client")


def label_command(folder: Path, rows: int, name: str) -> list[str | Path]:
    files: list[str | Path] = [folder / f"{rows}.jsonl", "-o", folder / f"{name}.jsonl"]
    return [COMMAND, "label", *files, "--store", folder / f"{name}.sqlite3", "--json"]


def label(folder: Path, rows: int, name: str, environment: Mapping[str, str]) -> dict[str, object]:
    """Run `icm-client label` as a user does; return what `--json` prints."""
    done = subprocess.run(
        label_command(folder, rows, name),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def labelled(path: Path) -> list[dict[str, Any]]:
    """Return what `icm-client label` wrote of each row."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def labels_in(path: Path) -> list[str]:
    return [row["label"] for row in labelled(path)]


def sample_reads(words: Sequence[TokenIds], prompts: Sequence[TokenIds], bos: int) -> list[Read]:
    """Six prompts of 1 to 25 demos, each read for both labels."""
    wanted = tuple(word[0] for word in words)
    reads = []
    for demos in (0, 1, 3, 8, 16, 24):
        ids: TokenIds = (bos,)
        for number in range(demos):
            ids += (*prompts[number], *words[number % 2])
        reads.append(Read(ids + prompts[demos], wanted))
    return reads


async def open_server(vllm: VllmServer, model: str = MODEL) -> VllmEndpoint:
    endpoint = await connect(vllm.url, model=model, api_key=vllm.key)
    assert isinstance(endpoint, VllmEndpoint)
    return endpoint


async def reads_for(endpoint: VllmEndpoint | EmbeddedEndpoint) -> list[Read]:
    job = Job.prepare(SAMPLE_ROWS, SAMPLE / "task.toml")
    words = [await endpoint.tokenize(text, add_special=False) for text in job.label_texts]
    prompts = [await endpoint.tokenize(text, add_special=False) for text in job.prompts[:25]]
    (bos,) = await endpoint.tokenize("", add_special=True)
    return sample_reads(words, prompts, bos)


def weights() -> Path:
    """The folder that the server serves."""
    return folder_for(gemma.model_path())


def forward(reads: Sequence[Read], *adapters: Path) -> list[float]:
    """Log-probs of transformers' own forward pass, one after the other; adapters are added up."""
    assert PYTHON is not None
    done = subprocess.run(
        [PYTHON, ROOT / "tests" / "vllm" / "vllm_forward.py", weights(), *adapters],
        input=json.dumps(reads),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [log_prob for answer in json.loads(done.stdout) for log_prob in answer]
