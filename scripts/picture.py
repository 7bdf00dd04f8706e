"""Draw docs/images/run.svg from a real run on the example rows: scripts/picture.py.

The terminal as it stands in the middle of the third sweep, and the end of the same run.
"""

import io
import sys
from pathlib import Path

try:
    import icm_client.cli.main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)

from rich.console import Console
from rich.text import Text

import icm_client
from icm_client.cli.result_display import print_result
from icm_client.cli.search_display import SearchLines, moment
from icm_client.coherence.result import SweepRecord
from icm_client.runs.progress import Progress

ROOT = Path(__file__).parents[1]
DATA = "examples/movie_reviews/movie_reviews.jsonl"


def main() -> None:
    """Run, and save the picture."""
    console = Console(record=True, file=io.StringIO(), width=96, force_terminal=True)
    console.print(Text(f"$ icm-client label {DATA} -o labels.jsonl", style="bold"))
    lines = SearchLines(console)
    half: list[Progress] = []

    def show(progress: Progress) -> None:
        lines(progress)
        if (
            isinstance(progress.last, SweepRecord)
            and progress.last.sweep == 1
            and progress.done * 2 > progress.total
            and not half
        ):
            half.append(progress)
            console.print(moment(progress))
            console.print(Text("..."))

    found = icm_client.label_sync(
        ROOT / DATA, task=ROOT / "examples/movie_reviews/task.toml", progress=show
    )
    print_result(found, "labels.jsonl", console)
    picture = ROOT / "docs" / "images" / "run.svg"
    picture.parent.mkdir(exist_ok=True)
    console.save_svg(str(picture), title="icm-client")


if __name__ == "__main__":
    main()
