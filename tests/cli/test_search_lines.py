from io import StringIO

from rich.console import Console

from icm_client.cli.search_display import SearchLines, WaitLines
from icm_client.coherence.result import Observed, Step
from icm_client.endpoints import Waiting
from icm_client.runs.progress import Cost, Progress
from icm_client.runs.trainer import TrainingProgress


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


def at(seconds: float, last: Observed | None, of: int | None, done: int = 0) -> Progress:
    cost = Cost(0, 0, 0, 0, 1_000, 0, seconds)
    return Progress(("no", "yes"), ((1,), (2,)), done, 512, last, of, cost, None, None)


def test_steps_have_a_line_for_each_tenth_and_without_a_terminal_for_each_minute() -> None:
    shown, kept = Console(file=StringIO()), Console(file=StringIO())
    without_display, beside_display = SearchLines(kept, apart_s=60), SearchLines(shown)
    for n in range(1, 101):  # 30 seconds a step
        step = Step(n, 2.0, 50.0, 0, n % 2, (), -1.0, 0.5, accepted=True)
        for lines in (without_display, beside_display):
            lines(at(30.0 * n, step, 1000))
            lines(at(30.0 * n, step, 1000))  # the same moment is told once
    told = kept.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
    assert len(told) == 50
    assert told[0].startswith("step 2 of 1000: ")
    assert told[0].endswith("2 accepted, 1,000 tokens computed, 60 s")
    (only,) = shown.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
    assert only.startswith("step 100 of 1000: ")


def test_a_long_sweep_has_a_line_a_minute_where_no_terminal_shows_it() -> None:
    console = Console(file=StringIO())
    lines = SearchLines(console, apart_s=60)
    for seconds, done in ((10, 1), (61, 200), (90, 300), (125, 400)):
        lines(at(seconds, None, None, done))
    told = console.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
    assert told == [
        "200 of 512 scores, 1,000 tokens computed, 61 s",
        "400 of 512 scores, 1,000 tokens computed, 125 s",
    ]


def test_labels_are_shown_with_their_tokens_where_there_are_any() -> None:
    for tokens, shown in ((((1,), (2, 3)), "no (token 1), yes (token 2 3)"), (((), ()), "no, yes")):
        console = Console(file=StringIO())
        cost = Cost(0, 0, 0, 0, 0, 0, 0.0)
        SearchLines(console)(Progress(("no", "yes"), tokens, 0, 0, None, None, cost, None, None))
        assert console.file.getvalue() == f"Labels: {shown}\n"  # type: ignore[attr-defined]


def test_a_wait_is_told_where_no_terminal_shows_it_but_not_every_time() -> None:
    console = Console(file=StringIO())
    lines = WaitLines(console)
    for at_s, seconds in ((1.0, 0.5), (2.0, 14.0), (10.0, 14.0), (32.0, 20.0)):
        waiting = Waiting(seconds, "500 from the server", 3, False)
        cost = Cost(0, 0, 0, 0, 0, 0, at_s)
        lines(Progress(("no", "yes"), ((1,), (2,)), 0, 0, None, None, cost, None, waiting))
    told = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert told == [
        "Waiting 14 s: 500 from the server",
        "Waiting 20 s, with no answer for 31 s: 500 from the server",
    ]
