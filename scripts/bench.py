"""The figures behind the claims: `scripts/bench --help` lists what can be measured."""

import sys

try:
    import icm_client.cli.main  # noqa: F401 - and what it needs
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

import click
from bench_ask import asks
from bench_audit import audits
from bench_chance import chance
from bench_concepts import concepts
from bench_diagnosis import diagnosis
from bench_finetune import finetune
from bench_memory import memory
from bench_planner import planner
from bench_predict import predict
from bench_presets import presets
from bench_quality import quality, several, thresholds
from bench_salience import salience_bench
from bench_sampling import sampling
from bench_search import neutral
from bench_store import store
from bench_view import view
from bench_votes import votes
from bench_wire import wire


@click.group()
def bench() -> None:
    """Measure."""


for command in (
    *(
        asks,
        audits,
        chance,
        concepts,
        diagnosis,
        finetune,
        memory,
        neutral,
        planner,
        predict,
        presets,
        quality,
    ),
    *(salience_bench, sampling, several, store, thresholds, view, votes, wire),
):
    bench.add_command(command)


if __name__ == "__main__":
    bench()
