"""What a run has found, as something that labels new rows: `Predictor`.

predictor = labels.predictor()                  # or Predictor.load("runs/reviews-0123456789")
async for row in predictor.label(rows, endpoint=URL):
print(row.label, row.confidence)
"""

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from anyio.from_thread import start_blocking_portal

from icm_client.coherence.predict import CONTEXTS
from icm_client.data import LabelledRow
from icm_client.data.formats import FileOptions
from icm_client.data.job import Rows
from icm_client.endpoints import Endpoint, ServerIdentity
from icm_client.endpoints.identity_check import described
from icm_client.errors import ModelChanged
from icm_client.record.archive import find_run
from icm_client.record.layout import DEFAULT_BASE
from icm_client.record.run_labels import read_labels
from icm_client.runs.frozen import PREDICTOR, Found, Frozen
from icm_client.runs.predict import Prediction, Totals
from icm_client.runs.row_lengths import RowLimit
from icm_client.runs.server import Server, open_endpoint
from icm_client.scoring import ScorerStats, ScoreStore, ScoringProgress, open_store
from icm_client.verdict.findings import recorded_finding

if TYPE_CHECKING:
    from icm_client.runs.result import Labels  # which makes a predictor of itself


class PredictOptions(TypedDict, total=False):
    """Further options of `Predictor.label`, which are those of `Prediction`."""

    batch: int
    gold: str | None
    file: FileOptions
    skip_bad_rows: bool
    fail_on_error: float


class Predictor:
    """Labels new rows, each on its own, with what a run has found.

    Args:
        found: the run's labels.
        folder: the run's, where contexts once measured are kept; None keeps them in memory.

    Attributes:
        found: the run's labels.
    """

    def __init__(self, found: Found, folder: Path | None = None) -> None:
        self.found = found
        self._folder = folder
        self._frozen: Frozen | None = None

    @classmethod
    def load(
        cls, run: str | os.PathLike[str], *, runs: str | os.PathLike[str] = DEFAULT_BASE
    ) -> Self:
        """Return the predictor of a run that has ended, by the run's folder or name.

        Raises:
            InputError: there is no such run, or it has no labels yet.
            RunError: its folder cannot be read, or is damaged.
        """
        kept = find_run(os.fspath(run), Path(runs))
        labels = read_labels(kept.path)
        result = kept.result or {}
        return cls(
            Found(
                kept.name,
                labels.task,
                labels.labelled,
                ServerIdentity(**kept.record["server"]),
                int(kept.record["seed"]),
                tuple(recorded_finding(one) for one in result.get("findings", ())),
                RowLimit.of(kept.record["settings"]),
            ),
            kept.path,
        )

    @classmethod
    def of(cls, labels: "Labels") -> Self:
        """Return the predictor of labels that are in memory."""
        return cls(
            Found(
                labels.run.name if labels.run is not None else labels.dataset.name,
                labels.task,
                labels.rows,
                labels.server,
                labels.seed,
                labels.findings,
                labels.row_limit,
            ),
            labels.run,
        )

    def __repr__(self) -> str:
        return f"<Predictor of {len(self.found.rows):,} rows of {self.found.run}>"

    async def label(
        self,
        rows: Rows,
        *,
        endpoint: Endpoint | Server | str | None = None,
        store: ScoreStore | str | os.PathLike[str] | None = None,
        contexts: int = CONTEXTS,
        accept_other_model: bool = False,
        **options: Unpack[PredictOptions],
    ) -> AsyncGenerator[LabelledRow]:
        """Yield each row with its label, in order; rows without one are left out.

        Args:
            rows: as for `icm_client.label`; an iterator is read as it is needed.
            endpoint: as for `icm_client.label`: the model that the run asked.
            store: as for `icm_client.label`.
            contexts: in which each row is read; 0 reads it zero-shot, as a model that was trained
                on the run's labels is asked.
            accept_other_model: take another model than the run's.
            options: rows in a `batch` (2,048); the `gold` field, which is taken out of the rows; a
                `file`, how a file is read; `skip_bad_rows`, to leave out rows that cannot be used;
                `fail_on_error`, as for `icm_client.label`, of the rows so far.

        Raises:
            ModelChanged: another model answers than the run's.
            InputError, EndpointError, ScoreError, StoreError: as `icm_client.label`.
        """
        with open_store(store) as kept:
            async with open_endpoint(endpoint) as server:
                prediction = await self.begin(
                    server,
                    kept,
                    contexts=contexts,
                    accept_other_model=accept_other_model,
                    **options,
                )
                async with aclosing(prediction.batches(rows)) as batches:
                    async for batch in batches:
                        for row in batch.rows:
                            yield row

    def label_sync(
        self,
        rows: Rows,
        *,
        endpoint: Endpoint | Server | str | None = None,
        store: ScoreStore | str | os.PathLike[str] | None = None,
        contexts: int = CONTEXTS,
        accept_other_model: bool = False,
        **options: Unpack[PredictOptions],
    ) -> Iterator[LabelledRow]:
        """`label` for code that is not async; works in a notebook's running loop too."""
        with start_blocking_portal() as portal:
            labelled = self.label(
                rows,
                endpoint=endpoint,
                store=store,
                contexts=contexts,
                accept_other_model=accept_other_model,
                **options,
            )
            try:
                while (row := portal.call(_next, labelled)) is not None:
                    yield row
            finally:
                portal.call(labelled.aclose)

    async def begin(
        self,
        server: Endpoint,
        store: ScoreStore,
        *,
        contexts: int = CONTEXTS,
        accept_other_model: bool = False,
        totals: Totals | None = None,
        stats: ScorerStats | None = None,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
        **options: Unpack[PredictOptions],
    ) -> Prediction:
        """Return what labels new rows in the contexts of `frozen`, in the same server and store.

        Args:
            server: open.
            store: where scores are kept.
            contexts: as for `label`, like the next.
            accept_other_model: take another model than the run's.
            totals: as for `Prediction`, like all that follow.
            stats: where reads are counted, those of the run's own rows too.
            on_progress: called as rows are scored.
            stopping: as for `icm_client.label`.
            options: as for `label`.
        """
        stats = stats or ScorerStats()
        frozen = await self.frozen(
            server,
            store,
            contexts=contexts,
            accept_other_model=accept_other_model,
            stats=stats,
            on_progress=on_progress,
            stopping=stopping,
        )
        return Prediction(
            frozen,
            server,
            store,
            totals=totals,
            stats=stats,
            on_progress=on_progress,
            stopping=stopping,
            **options,
        )

    def kept(self) -> Frozen | None:
        """Return the contexts that the run's folder keeps of these labels; None where none are.

        Raises:
            RunError: the file cannot be read, or is damaged.
        """
        path = None if self._folder is None else self._folder / PREDICTOR
        if self._frozen is None and path is not None and path.exists():
            kept = Frozen.load(path)
            self._frozen = kept if kept.found == self.found.digest else None
        return self._frozen

    async def frozen(
        self,
        server: Endpoint,
        store: ScoreStore,
        *,
        contexts: int = CONTEXTS,
        accept_other_model: bool = False,
        stats: ScorerStats | None = None,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Frozen:
        """Return the contexts measured under this server's model, measuring them where need be.

        Raises:
            ModelChanged: it is not the run's model, and `accept_other_model` is not set.
            RunError: what the run's folder keeps cannot be read or written.
            EndpointError, ScoreError, StoreError: the run's rows could not be read.
        """
        found = self.found
        own = server.identity.fingerprint == found.server.fingerprint
        if not own and not accept_other_model:
            raise ModelChanged(
                f"the run {found.run} was made with another model ({found.server.model}) than the "
                f"one that answers now, {described(server.identity)}: name its server with "
                "--endpoint, or take this model with --accept-other-model",
                last_confirmed_at=0.0,
            )
        path = self._folder / PREDICTOR if own and self._folder is not None else None
        kept = self.kept()
        wanted = (server.identity.fingerprint, contexts)
        if kept is None or wanted != (kept.server.fingerprint, kept.n_contexts):
            kept = await Frozen.measure(
                found,
                server,
                store,
                contexts=contexts,
                stats=stats,
                on_progress=on_progress,
                stopping=stopping,
            )
            if path is not None:
                kept.save(path)
            self._frozen = kept
        return kept


async def _next(labelled: AsyncGenerator[LabelledRow]) -> LabelledRow | None:
    return await anext(labelled, None)
