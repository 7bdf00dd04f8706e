from io import StringIO

from rich.console import Console

from icm_client.cli.terminal import SearchLines
from icm_client.runs.progress import Cost, Progress
from icm_client.training.trainer import TrainingProgress


def test_a_training_is_told_when_it_begins_and_only_then() -> None:
    console = Console(file=StringIO())
    lines = SearchLines(console)
    for names in ((), ("pass-1-fold-1",), ("pass-1-fold-1", "pass-1-fold-2"), ()):
        training = tuple(TrainingProgress(name, 3, None, None, 1.0) for name in names)
        cost = Cost(0, 0, 0, 0, 0, 0, 0.0)
        lines(
            Progress(
                ("no", "yes"), ((1,), (2,)), 0, 0, None, None, cost, None, None, training=training
            )
        )
    told = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert told[1:] == ["training pass-1-fold-1", "training pass-1-fold-2"]
