"""Run an evaluation over one open server and one score store.

The same call again asks the server nothing that it answered before, but for a few reads that show
that it is the same model still; a run that was broken off goes on from there.
"""

from collections.abc import Callable

from icm_client.coherence.fast import SweepSettings
from icm_client.endpoints import Endpoint
from icm_client.errors import InputError
from icm_client.experiments.evaluation import TAUGHT_BY, Evaluation
from icm_client.experiments.evaluation_bench import Bench, OnMoment
from icm_client.experiments.evaluation_table import Outcome
from icm_client.experiments.finetuned import FineTuning, Lesson
from icm_client.runs.presets import fitted_job, fitted_notice
from icm_client.runs.trainer import Trainer
from icm_client.scoring import ScoreStore, open_store

Told = Callable[[Outcome], None]


async def run_evaluation(
    evaluation: Evaluation,
    *,
    endpoint: Endpoint,
    trainer: Trainer | None = None,
    store: ScoreStore | str | None = None,
    ended: Told = lambda _: None,
    progress: OnMoment | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[tuple[Outcome, ...], tuple[str, ...]]:
    """Run every method with every seed; one that fails is noted, and the next one runs.

    Models are trained last, all seeds' together, as many at once as the trainer has room for.

    Args:
        evaluation: what is to be run.
        endpoint: open, and left so.
        trainer: trains from the model that the endpoint serves; for methods that train.
        store: the score store's file, or one that is open (and stays so); None takes the user's
            own.
        ended: told of each method as it ends.
        progress: told as a method goes on.
        stopping: asked before each request; once it says so, what is under way is awaited and
            stored, and `RunStopped` is raised.

    Returns:
        The outcomes, seed by seed, those of trained models last, and sentences that the user should
        see.

    Raises:
        InputError: no two demos fit into the server's context; methods that train,
            and no trainer.
        SetupError: a package that training needs is missing.
        ModelChanged: another model answers.
        EndpointError: the server does not tokenize.
        StoreError: scores cannot be kept.
        RunStopped: `stopping` said so.
    """
    job = evaluation.job
    if trainer is None and any(method.kind in TAUGHT_BY for method in evaluation.methods):
        raise InputError(
            "fine-tuned models are to be compared, and there is nothing to train with: name a "
            "trainer (trainer=..., on the command line --finetune)"
        )
    with open_store(store) as kept:
        kept.record_server(endpoint.identity)
        asked = SweepSettings(demos=evaluation.demos, averaged=evaluation.contexts)
        pieces, fitted, _ = await fitted_job(job, asked, endpoint, kept)
        assert isinstance(fitted, SweepSettings)  # noqa: S101 - `fit` keeps the kind
        notice = fitted_notice(asked, fitted, len(evaluation.splits[0].train))
        outcomes: list[Outcome] = []
        lessons: list[Lesson] = []
        for seed, split in zip(evaluation.seeds, evaluation.splits, strict=True):
            bench = Bench(
                evaluation,
                seed=seed,
                split=split,
                endpoint=endpoint,
                store=kept,
                pieces=pieces,
                fitted=fitted,
                progress=progress,
                stopping=stopping,
            )
            for method in evaluation.methods:
                if method.kind in TAUGHT_BY:
                    lessons.append(Lesson(split, *await bench.lesson(method)))
                    continue
                outcomes.append(await bench.outcome(method))
                ended(outcomes[-1])
        if trainer is not None and lessons:
            tuning = FineTuning(
                evaluation, trainer, kept, ended=ended, progress=progress, stopping=stopping
            )
            outcomes += await tuning.outcomes(lessons)
    return tuple(outcomes), (() if notice is None else (notice,))
