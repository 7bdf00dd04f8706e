"""Run an evaluation over one open server and one score store.

The same call again asks the server nothing that it answered before; a run that was broken off goes
on from there.
"""

from collections.abc import Callable

from icm_client.analysis.evaluation import Evaluation
from icm_client.analysis.evaluation_bench import Bench, OnMoment
from icm_client.analysis.evaluation_table import Outcome
from icm_client.coherence.settings import SweepSettings
from icm_client.endpoints import Endpoint
from icm_client.runs.presets import fit, fitted_notice
from icm_client.scoring import ScoreStore, open_store, tokenize_pieces

Told = Callable[[Outcome], None]


async def run_evaluation(
    evaluation: Evaluation,
    *,
    endpoint: Endpoint,
    store: ScoreStore | str | None = None,
    ended: Told = lambda _: None,
    progress: OnMoment | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[tuple[Outcome, ...], tuple[str, ...]]:
    """Run every method with every seed; one that fails is noted, and the next one runs.

    Args:
        evaluation: what is to be run.
        endpoint: open, and left so.
        store: the score store's file, or one that is open (and stays so); None takes the user's
            own.
        ended: told of each method as it ends.
        progress: told as a method goes on.
        stopping: asked before each request; once it says so, what is under way is awaited and
            stored, and `RunStopped` is raised.

    Returns:
        The outcomes, seed by seed, and sentences that the user should see.

    Raises:
        InputError, PromptTooLong: no two demos fit into the server's context.
        ModelChanged: another model answers.
        EndpointError: the server does not tokenize.
        StoreError: scores cannot be kept.
        RunStopped: `stopping` said so.
    """
    job = evaluation.job
    with open_store(store) as kept:
        kept.record_server(endpoint.identity)
        pieces = await tokenize_pieces(
            job.prompts, job.label_texts, job.task.separator, endpoint, kept
        )
        asked = SweepSettings(demos=evaluation.demos, averaged=evaluation.contexts)
        fitted = fit(asked, pieces, endpoint)
        assert isinstance(fitted, SweepSettings)  # noqa: S101 - `fit` keeps the kind
        notice = fitted_notice(asked, fitted, len(evaluation.splits[0].train))
        outcomes = []
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
                outcomes.append(await bench.outcome(method))
                ended(outcomes[-1])
    return tuple(outcomes), (() if notice is None else (notice,))
