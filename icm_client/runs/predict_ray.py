"""Label many files, on many machines: `predict_shards`, with Ray Data.

    find the shards, and those of them that have their labels already
    measure the run's contexts: once, here
    on N workers, each with one client of the servers: label a shard with `predict_file`
    when every shard has its labels, write the manifest

A shard, which is one file, is the unit of work. So its labels are byte for byte those that
`predict_file` writes without Ray, and its rows stay in order, with those of a group together. Ray
chooses the worker, and gives the shard to another one where a worker dies; `LabelSink` has kept
what was labelled by then, so that only the batch under way is labelled again. No row can be lost or
come twice: a shard's output is put in its place whole, and its record is written after that.

Shards and output (`icm_client.runs.shards` says what is in it) must be seen by all workers under
the same paths. Scores are kept on each worker's own disk for as long as it labels a shard: a SQLite
file must not lie on a network's.
"""

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import SecretStr

from icm_client.coherence.predict import CONTEXTS
from icm_client.data import FileFormat
from icm_client.data.formats import NO_OPTIONS, FileOptions
from icm_client.data.values import write_json
from icm_client.data.whole_files import replace_file
from icm_client.endpoints import Endpoint, ServerIdentity, Usage
from icm_client.endpoints.identity_check import described
from icm_client.errors import IcmError, InputError, ModelChanged, RowError, RunError, SetupError
from icm_client.runs.frozen import Frozen
from icm_client.runs.predict import BATCH, Totals
from icm_client.runs.predict_file import Predicted, predict_file
from icm_client.runs.predictor import Predictor
from icm_client.runs.progress import Cost, cost_since
from icm_client.runs.search import DEFAULT_FAIL_ON_ERROR
from icm_client.runs.server import Server, open_endpoint
from icm_client.runs.shards import (
    NO_COST,
    Shard,
    ShardFolder,
    explained,
    find_shards,
    job_of,
    sum_of,
)
from icm_client.scoring import ScorerStats, open_store
from icm_client.settings import Environment

WORKERS: Final = 2
"""Workers, where no number is given."""

_ANSWERS_WITHIN_S: Final = 10.0

_ATTEMPTS: Final = 6
_BETWEEN_S: Final = 10.0
"""A worker that Ray has given up may still write its shard: the next one waits for its end."""


def predict_shards(
    predictor: Predictor,
    data: str,
    output: str | os.PathLike[str],
    *,
    endpoint: Server | str | None,
    address: str | None = None,
    workers: int = WORKERS,
    store: str | os.PathLike[str] | None = None,
    contexts: int = CONTEXTS,
    batch: int = BATCH,
    gold: str | None = None,
    file: FileOptions = NO_OPTIONS,
    output_format: FileFormat | None = None,
    skip_bad_rows: bool = False,
    fail_on_error: float = DEFAULT_FAIL_ON_ERROR,
    accept_other_model: bool = False,
    fresh: bool = False,
    progress: Callable[["ShardProgress"], None] = lambda _: None,
) -> Predicted:
    """Label the rows of many files into a folder. The same call again goes on where it stopped.

    The options are those of `predict_file`. Every worker, a process on one core, asks all servers
    of `endpoint`, and gets an equal part of `max_in_flight`; a server that is lost is given up. In
    `store` are the scores that contexts are measured by. An `address` of None takes RAY_ADDRESS,
    else starts Ray on this machine; `fresh` labels again what has labels.

    Raises:
        InputError: no shards, of more than one format, or no server; the folder has labels of
            another run; or shards have rows that cannot be used: the others are labelled by then.
        SetupError: Ray is not installed.
        RunError: no cluster answers, Ray failed, or a file cannot be read or written.
        ModelChanged, TooManyFailed, EndpointError, ScoreError, StoreError: as `predict_file`. The
            shards done by then stay.
    """
    began = time.monotonic()
    shards = find_shards(data, output, data_format=file.format, output_format=output_format)
    server, api_key = _named(endpoint)
    _require_ray()
    folder = ShardFolder(Path(output).absolute())
    folder.check()

    async def measure() -> tuple[Frozen, ServerIdentity, Cost]:
        with open_store(store) as kept:
            async with open_endpoint(server) as opened:
                kept.record_server(opened.identity)
                frozen = await predictor.frozen(
                    opened, kept, contexts=contexts, accept_other_model=accept_other_model
                )
                cost = cost_since(began, [(opened, Usage())], ScorerStats())
                return frozen, opened.identity, cost

    with start_blocking_portal() as portal:
        frozen, identity, measuring = portal.call(measure)
    folder.begin(job_of(predictor, identity, contexts, gold), fresh=fresh)
    left = [shard for shard in shards if shard.recorded() is None]
    at = ShardProgress(len(shards) - len(left), len(shards), 0)
    progress(at)
    costs = [measuring]
    refused: list[RowError] = []
    if left:
        folder.manifest.unlink(missing_ok=True)
        most = server.transport.max_in_flight
        workers = min(workers, len(left), most)
        share = replace(server.transport, max_in_flight=most // workers, observe=None)
        work = _Work(
            predictor,
            identity,
            replace(server, transport=share),
            api_key,
            {
                "contexts": contexts,
                "batch": batch,
                "gold": gold,
                "file": file,
                "skip_bad_rows": skip_bad_rows,
                "fail_on_error": fail_on_error,
                "accept_other_model": accept_other_model,
            },
        )
        for outcome in _labelled(left, work, workers, address):
            if isinstance(outcome, RowError):
                refused.append(outcome)
                continue
            if isinstance(outcome, IcmError):
                outcome.goes_on = True
                raise outcome
            costs.append(Cost(**outcome["cost"]))
            at = ShardProgress(at.done + 1, at.total, at.rows + outcome["totals"]["rows"])
            progress(at)
    if refused:
        raise InputError(
            f"{len(refused):,} of {len(shards):,} shards have rows that cannot be used; the others "
            f"have their labels in {output}. Mend these, or give --skip-bad-rows, and the same "
            f"command labels what is left. The first: {refused[0]}"
        )
    cost = replace(sum_of(costs), seconds=time.monotonic() - began)
    return folder.finish(predictor, frozen, identity, cost)


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """A moment of `predict_shards`.

    Attributes:
        done: shards that have their labels, those of an earlier call too.
        total: shards.
        rows: of the shards that this call has labelled.
    """

    done: int
    total: int
    rows: int


class _Work(NamedTuple):
    """What a worker needs for any shard.

    Attributes:
        predictor: with its contexts, measured.
        measured: the server that they were measured on.
        server: whom to ask, with the worker's part of the requests in flight.
        api_key: the servers'.
        options: of `predict_file`.
    """

    predictor: Predictor
    measured: ServerIdentity
    server: Server
    api_key: SecretStr | None
    options: Mapping[str, Any]


class _Worker:
    """Labels shards, one after the other, with one client: Ray Data runs it in an actor.

    It connects when its first shard comes, since Ray shows the error of an actor that cannot be
    made less well than one that is handed back.
    """

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._open = ExitStack()  # to the end of the process
        self._portal: BlockingPortal | None = None
        self._server: Endpoint | None = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[object]]:
        """Label one shard; the outcome is its record, or the error that it ended with."""
        name, *paths = (str(batch[field][0]) for field in Shard._fields)
        shard = Shard(name, *map(Path, paths))
        try:
            if self._portal is None:
                self._portal = portal = _event_loop()
                self._open.callback(lambda: portal.call(portal.stop))
            if self._server is None:
                if self._work.api_key is not None:
                    os.environ["ICM_API_KEY"] = self._work.api_key.get_secret_value()
                opened = self._portal.wrap_async_context_manager(open_endpoint(self._work.server))
                self._server = self._open.enter_context(opened)
            return {"outcome": [self._portal.call(self._label, shard, self._server)]}
        except IcmError as error:
            return {"outcome": [error]}

    async def _label(self, shard: Shard, server: Endpoint) -> dict[str, Any]:
        """Label a shard and write its record, or return the one that is there."""
        with explained(shard.source):
            found = shard.recorded()
            if found is not None:
                return found
            version = shard.version()
            empty = shard.is_empty(self._work.options["file"])
            shard.record.parent.mkdir(parents=True, exist_ok=True)
            shard.output.parent.mkdir(parents=True, exist_ok=True)
        if server.identity.fingerprint != self._work.measured.fingerprint:
            raise ModelChanged(
                f"{described(server.identity)} answers now, and the contexts were measured with "
                f"{described(self._work.measured)}",
                last_confirmed_at=0.0,
            )
        totals, cost = Totals(), NO_COST
        if not empty:
            with tempfile.TemporaryDirectory(prefix="icm-client-") as folder:
                done = await self._predict(shard, server, Path(folder) / "scores.sqlite3")
            totals, cost = done.totals, done.cost
            empty = done.output is None
        made = {
            "name": shard.name,
            "source": str(shard.source),
            "version": version,
            "empty": empty,
            "totals": totals.document(),
            "cost": asdict(cost),
        }
        with explained(shard.record):
            replace_file(shard.record, write_json(made))
        return made

    async def _predict(self, shard: Shard, server: Endpoint, store: Path) -> Predicted:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with open_store(store) as kept:
                    return await predict_file(
                        self._work.predictor,
                        shard.source,
                        shard.output,
                        endpoint=server,
                        store=kept,
                        **self._work.options,
                    )
            except RunError:
                if attempt == _ATTEMPTS:
                    raise
                await anyio.sleep(_BETWEEN_S)
        raise AssertionError


def _event_loop() -> BlockingPortal:
    """Start an event loop that runs between calls, and return the way to it.

    Its thread is a daemon: Python waits at a process's end for those that
    `anyio.from_thread.start_blocking_portal` makes, and Ray's workers would never end.
    """
    started = Future[BlockingPortal]()

    async def run() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    Thread(target=anyio.run, args=(run,), daemon=True).start()
    return started.result()


def _labelled(
    shards: Sequence[Shard], work: _Work, workers: int, address: str | None
) -> Iterator[dict[str, Any] | IcmError]:
    """Have the shards labelled, and yield what has become of each, in the order of their ends."""
    import ray  # noqa: PLC0415 - an optional extra, and slow to load
    import ray.data  # noqa: PLC0415

    with _cluster(address, workers):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        rows = [dict(zip(Shard._fields, map(str, shard), strict=True)) for shard in shards]
        outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(work,),
            batch_size=1,
            # A worker that holds a second shard would keep it from one that is idle.
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
        )
        try:
            for row in outcomes.iter_rows():
                yield row["outcome"]
        except ray.exceptions.RayError as error:
            cause: BaseException = error
            while (deeper := getattr(cause, "cause", None) or cause.__cause__) is not None:
                cause = deeper
            stopped = RunError(f"Ray ended the work: {type(cause).__name__}: {cause}")
            stopped.goes_on = True
            raise stopped from error


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[None]:
    """Connect to Ray, unless the caller has, or start it here with a core for each worker."""
    import ray  # noqa: PLC0415

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    # What it says goes to its own log files; what ends the work is raised.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), _ANSWERS_WITHIN_S).close()
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if address == "local" else {}),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(f"no Ray cluster can be used at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_ray() -> None:
    try:
        import ray.data  # noqa: F401, PLC0415
    except ImportError:
        raise SetupError("--engine ray needs Ray: pip install 'icm-client[ray]'") from None


def _named(server: Server | str | None) -> tuple[Server, SecretStr | None]:
    """The servers, with what the environment here says of them: a worker's may say nothing.

    Raises:
        InputError: none is named.
    """
    environment = Environment()
    server = server if isinstance(server, Server) else Server(server)
    url = server.url or environment.endpoint
    if url is None or server.gguf is not None:
        raise InputError(
            "on Ray all workers ask the same servers: name one with --endpoint or ICM_ENDPOINT"
        )
    return replace(server, url=url, model=server.model or environment.model), environment.api_key
