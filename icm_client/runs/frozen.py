"""What a run leaves behind for new rows: contexts of its labels, measured under one model.

`Frozen.measure` draws the contexts and reads the run's rows in them, once a run;
`predictor.json` in its folder keeps the result. `icm_client.coherence.predict` has the method.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import orjson

from icm_client.coherence.predict import CONTEXTS, Calibration, calibrate, freeze
from icm_client.coherence.problem import UNLABELLED, Context, Demo, FloatArray, IntArray, Query
from icm_client.coherence.settings import SweepSettings
from icm_client.data import Dataset, LabelledRow, Task
from icm_client.data.constraint_spec import ConstraintSpec
from icm_client.data.job import Job
from icm_client.data.values import write_json
from icm_client.data.whole_files import replace_file
from icm_client.endpoints import Endpoint, ServerIdentity
from icm_client.endpoints.protocol import TextEndpoint, TokenIds
from icm_client.errors import InputError, RowError, RunError, TaskError
from icm_client.runs.labels_file import put
from icm_client.runs.presets import fitted_job
from icm_client.runs.row_lengths import NO_LIMIT, RowLimit, within_limit
from icm_client.scoring import (
    Pieces,
    Scorer,
    ScorerStats,
    ScoreStore,
    ScoringProgress,
    tokenize_pieces,
)
from icm_client.verdict.findings import Finding, recorded_finding
from icm_client.verdict.shift import signals

FORMAT: Final = 1
"""The version of predictor.json."""

PREDICTOR: Final = "predictor.json"

_SEED: Final = 20
"""With the run's seed, of all that is random here: the search drew its own from the seed alone."""


@dataclass(frozen=True)
class Found:
    """Labels that a run has found, from its folder or from memory.

    Attributes:
        run: its name, for messages.
        task: with the options of the call in it.
        rows: those that have a label.
        server: who answered.
        seed: of the run.
        findings: on its labels.
        row_limit: how many tokens a row could take, and new ones may.
    """

    run: str
    task: Task
    rows: Sequence[LabelledRow]
    server: ServerIdentity
    seed: int
    findings: tuple[Finding, ...]
    row_limit: RowLimit = NO_LIMIT

    @cached_property
    def digest(self) -> str:
        """Of all that contexts depend on: a run that goes on finds other labels."""
        rows = [
            [
                *(f"{one.row.id}", one.label, one.confidence, one.pinned),
                [one.row.fields.get(name) for name in sorted(self.task.read_fields)],
                [one.log_probs[word] for word in self.task.labels],
            ]
            for one in self.rows
        ]
        content = [self.run, self.task.model_dump(mode="json"), self.seed, rows]
        content += [settings] if (settings := self.row_limit.settings) else []
        return blake2b(write_json(content), digest_size=16).hexdigest()

    def job(self) -> Job:
        """The rows that have a label, with the task's rule, unless it needs rows that have none."""
        rows = tuple(one.row for one in self.rows)
        dataset = Dataset(self.run, rows, None, None, ())
        try:
            return Job.prepare(dataset, self.task)
        except RowError:  # the rule names a row that has no label
            return Job.prepare(dataset, self.task, constraint=ConstraintSpec(kind="none"))

    def of_items(self, job: Job) -> tuple[IntArray, FloatArray, FloatArray]:
        """Labels `[N]`, log-probs `[N, K]` and confidence `[N]` of the job's items.

        A pair's other order has the label that agrees with the row's, and its log-probs exchanged.
        """
        labels = np.full(len(job.items), UNLABELLED)
        log_probs = np.zeros((len(job.items), len(job.labels)))
        confidence = np.full(len(job.items), np.nan)
        for number, item in enumerate(job.row_items.tolist()):
            one = self.rows[number]
            put(item, job.labels.index(one.label), labels, job)
            log_probs[item] = [one.log_probs[word] for word in job.labels]
            confidence[item] = np.nan if one.confidence is None else one.confidence
            if job.task.exchange is not None:
                log_probs[item + 1] = log_probs[item, ::-1]
                confidence[item + 1] = confidence[item]
        return labels, log_probs, confidence

    def pins(self, job: Job) -> IntArray | None:
        """Labels `[N]` that a person gave, `UNLABELLED` where none did; None where nobody did."""
        if not any(one.pinned for one in self.rows):
            return None
        pinned = np.full(len(job.items), UNLABELLED)
        for number, item in enumerate(job.row_items.tolist()):
            if self.rows[number].pinned:
                put(item, job.labels.index(self.rows[number].label), pinned, job)
        return pinned


@dataclass(frozen=True, slots=True)
class Frozen:
    """Contexts with all that a new row's label needs; nothing of it changes with new rows.

    Attributes:
        run: the run's name.
        found: `Found.digest` of the labels that they were drawn from.
        task: what new rows are asked.
        server: who was asked, and must be asked now.
        prompts: of the demos, each once; of one row where there are no demos.
        contexts: `M` contexts, whose items are places in `prompts`.
        label_ids: each label's token ids, aligned with `labels`; None of a server that takes text.
        calibration: from raw log-probs to labels.
        usual: signal -> its values for the rows that the contexts were measured on, rising
            (`icm_client.verdict.shift`).
        findings: on the run's labels, and where another model is asked now.
        row_limit: how many tokens a new row may take.
    """

    run: str
    found: str
    task: Task
    server: ServerIdentity
    prompts: tuple[str, ...]
    contexts: tuple[Context, ...]
    label_ids: tuple[TokenIds, ...] | None
    calibration: Calibration
    usual: Mapping[str, FloatArray]
    findings: tuple[Finding, ...]
    row_limit: RowLimit = NO_LIMIT

    @property
    def labels(self) -> tuple[str, ...]:
        """The label words, as the calibration numbers them."""
        return tuple(sorted(self.task.labels))

    @property
    def label_texts(self) -> tuple[str, ...]:
        """The texts that follow a prompt, aligned with `labels`."""
        texts = dict(zip(self.task.labels, self.task.label_texts, strict=True))
        return tuple(texts[word] for word in self.labels)

    @classmethod
    async def measure(
        cls,
        found: Found,
        server: Endpoint,
        store: ScoreStore,
        *,
        contexts: int = CONTEXTS,
        stats: ScorerStats | None = None,
        on_progress: Callable[[ScoringProgress], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Self:
        """Draw contexts of the labels found, and read up to `MEASURED` rows in each.

        With 0 `contexts` rows are read zero-shot. The same call again asks nothing.

        Raises:
            InputError: fewer than two labels were found on rows.
            RowsTooLong: not one demo of each label fits the server's context.
            EndpointError, ScoreError, StoreError: as `Scorer`.
        """
        job = found.job()
        labels, log_probs, confidence = found.of_items(job)
        if len(np.unique(labels)) < 2:  # noqa: PLR2004
            raise InputError(
                f"the run {found.run} gives all rows one label: nothing can be predicted from it"
            )
        within = await within_limit(job, found.row_limit, server, store)
        job = within.job
        pieces, settings, unusable, _ = await fitted_job(
            job, SweepSettings(), server, store, skip_bad_rows=True, too_long=within.too_long
        )
        assert isinstance(settings, SweepSettings)  # noqa: S101 - `fit` keeps the kind
        labels[list(unusable)] = UNLABELLED
        frozen = freeze(
            labels,
            log_probs,
            job.problem(pinned=found.pins(job)),
            contexts=contexts,
            demos=settings.demos,
            keep=settings.keep,
            rng=np.random.default_rng((found.seed, _SEED)),
        )
        scorer = Scorer(
            server,
            store,
            pieces,
            on_progress=on_progress,
            on_failed=lambda _: None,  # a row without a score is not measured
            stopping=stopping,
        )
        scorer.stats = stats or scorer.stats
        asked = [Query(one.demos, item) for one in frozen for item in one.measured.tolist()]
        answers = await scorer(asked)
        ends = np.cumsum([len(one.measured) for one in frozen])[:-1]
        read = np.split(answers, ends)
        calibration, said = calibrate(read, frozen, labels, log_probs, confidence)
        mass = np.full((len(frozen), len(labels)), np.nan)
        for number, (one, part) in enumerate(zip(frozen, read, strict=True)):
            mass[number, one.measured] = np.exp(part).sum(axis=1)
        measured = np.flatnonzero(~np.isnan(said).any(axis=1))
        usual = signals(
            said[measured],
            np.nanmean(mass[:, measured], axis=0),
            np.array([len(pieces.prompts[item]) for item in measured]),
        )
        items = list(dict.fromkeys(demo.item for one in frozen for demo in one.demos))
        items = items or frozen[0].measured[:1].tolist()  # labels are tokenized after a prompt
        place = {item: number for number, item in enumerate(items)}
        return cls(
            found.run,
            found.digest,
            found.task,
            server.identity,
            tuple(job.prompts[item] for item in items),
            tuple(
                tuple(Demo(place[demo.item], demo.label) for demo in one.demos) for one in frozen
            ),
            None if isinstance(server, TextEndpoint) else pieces.labels,
            calibration,
            {name: np.sort(values) for name, values in usual.items()},
            (*found.findings, *_other_model(found, server.identity)),
            found.row_limit,
        )

    @property
    def n_contexts(self) -> int:
        """`M`; 0 where rows are read zero-shot."""
        return sum(map(bool, self.contexts))

    @property
    def context_texts(self) -> tuple[str, ...]:
        """Each context as it stands before a new row's prompt."""
        texts, separator = self.label_texts, self.task.separator
        return tuple(
            "".join(self.prompts[item] + texts[label] + separator for item, label in context)
            for context in self.contexts
        )

    async def pieces(self, server: Endpoint, store: ScoreStore) -> Pieces:
        """The demos' token ids, and the labels' as they were when the contexts were measured."""
        return await tokenize_pieces(
            self.prompts, self.label_texts, self.task.separator, server, store
        )

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        document = {
            "icm_client_predictor": FORMAT,
            "run": self.run,
            "found": self.found,
            "task": self.task.model_dump(mode="json"),
            "labels": self.labels,
            "server": asdict(self.server),
            "prompts": self.prompts,
            "contexts": [[tuple(demo) for demo in context] for context in self.contexts],
            "label_ids": self.label_ids,
            "bias": self.calibration.bias.tolist(),
            "slope": self.calibration.slope,
            "offsets": self.calibration.offsets.tolist(),
            "usual": {name: values.tolist() for name, values in self.usual.items()},
            "findings": [finding.summary() for finding in self.findings],
            **self.row_limit.settings,
        }
        try:
            replace_file(path, write_json(document))
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RunError: the file cannot be read, is damaged, or of a newer version.
        """
        try:
            content: dict[str, Any] = orjson.loads(path.read_bytes())
            if content["icm_client_predictor"] > FORMAT:
                raise RunError(
                    f"{path}: written by a newer icm-client: upgrade, or delete the file"
                )
            return cls(
                content["run"],
                content["found"],
                Task.model_validate(content["task"]),
                ServerIdentity(**content["server"]),
                tuple(content["prompts"]),
                tuple(
                    tuple(Demo(item, label) for item, label in one) for one in content["contexts"]
                ),
                None if content["label_ids"] is None else tuple(map(tuple, content["label_ids"])),
                Calibration(
                    np.array(content["bias"]), content["slope"], np.array(content["offsets"])
                ),
                {name: np.array(values) for name, values in content["usual"].items()},
                tuple(recorded_finding(one) for one in content["findings"]),
                RowLimit.of(content),
            )
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from error
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, TaskError) as error:
            raise RunError(f"{path}: describes no predictor ({error!r}): delete the file") from None


def _other_model(found: Found, now: ServerIdentity) -> tuple[Finding, ...]:
    if now.fingerprint == found.server.fingerprint:
        return ()
    return (
        Finding(
            "other-model",
            f"The labels of the run {found.run} were found with another model.",
            "Look at some of the rows that this one labels.",
            "check",
            f"Found with {found.server.model}, predicted with {now.model}",
        ),
    )
