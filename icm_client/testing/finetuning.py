r"""A fine-tuning service without a GPU: OpenAI's files, jobs and events, with faults by script.

    def learnt(examples):  # what a model knows that was trained on these
        return PlantedConcept(planted, task.label_texts, strength=0, meaning=6)

    fates = [Fate("failed", error="no GPU is free"), Fate()]
    async with FineTuningServer(concept, learnt, fates=fates) as server:
        trainer = ServedTrainer(server.url, server.base, folder=folder)
        ...

The trained models are served beside the base model.
Source of routes and bodies: https://platform.openai.com/docs/api-reference/fine-tuning.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import orjson
from aiohttp import web

from icm_client.runs.trainer import Example
from icm_client.testing.faults import Asked, Fault, Json, Script, scripted
from icm_client.testing.planted import PlantedConcept
from icm_client.testing.server import PlantedServer, refused

_BEGAN: Final = 1_700_000_000
"""The service's clock, seconds since 1970; it advances a minute a job."""

_MINUTE: Final = 60
_PAGE: Final = 20
_FEWEST: Final = 10

Learnt = Callable[[tuple[Example, ...]], PlantedConcept]
"""From a model's training examples to what it knows."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How a job ends.

    Attributes:
        end: its last status; "vanished" if the service no longer knows the job.
        looks: how many requests for its status find it running before that.
        error: why it failed.
        serving_looks: how many requests for the list of models do not find the trained one yet.
    """

    end: Literal["succeeded", "failed", "cancelled", "vanished"] = "succeeded"
    looks: int = 2
    error: str | None = None
    serving_looks: int = 0


class FineTuningServer(PlantedServer):
    """A `PlantedServer` that trains. An async context manager.

    Args:
        concept: what the base model knows.
        learnt: what a trained model knows.
        base: the base model's name.
        fates: of the jobs, in the order of their submission; all later ones succeed.
        faults: for requests to `/v1/files` and `/v1/fine_tuning`. A request whose answer is lost
            (`reset(after_bytes=1)`) has been acted upon.
        fewest: the fewest examples of a file; OpenAI requires 10.
        keeps_metadata: whether jobs are shown with metadata and suffix; some services omit them.
        api_key: as for `PlantedServer`.

    Attributes:
        base: as given.
        files: content of every file, by id.
        tuning_script: from the number of such a request to its fault, or None.
    """

    def __init__(
        self,
        concept: PlantedConcept,
        learnt: Learnt,
        *,
        base: str = "planted",
        fates: Sequence[Fate] = (),
        faults: Sequence[Fault | None] | Script = (),
        fewest: int = _FEWEST,
        keeps_metadata: bool = True,
        api_key: str | None = None,
    ) -> None:
        super().__init__(concept, model=base, api_key=api_key)
        self.base = base
        self.tuning_script: Script = scripted(faults) if isinstance(faults, Sequence) else faults
        self.files: dict[str, bytes] = {}
        self._learnt = learnt
        self._fates = tuple(fates)
        self._fewest = fewest
        self._keeps_metadata = keeps_metadata
        self._stored: dict[str, Json] = {}
        self._jobs: dict[str, Job] = {}
        self._trained: dict[str, _TrainedModel] = {}
        self._tunings = 0

    @property
    def jobs(self) -> list[Json]:
        """Every job's document, in the order of their submission."""
        return [job.document for job in self._jobs.values()]

    def cancel(self, job: str) -> None:
        """Cancel the job of this id, as its owner may in the service's console."""
        self._jobs[job].document["status"] = "cancelled"

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        super()._add_routes(router)
        jobs = "/v1/fine_tuning/jobs"
        router.add_get("/v1/files", self._met(self._list_files))
        router.add_post("/v1/files", self._met(self._upload))
        router.add_get(jobs, self._met(self._list_jobs))
        router.add_post(jobs, self._met(self._submit))
        router.add_get(f"{jobs}/{{job}}", self._met(self._show_job))
        router.add_get(f"{jobs}/{{job}}/events", self._met(self._list_events))

    def _met(
        self, honest: Callable[[web.Request], Awaitable[Json]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The route, unless the script has a fault for the request."""

        async def answer(request: web.Request) -> web.StreamResponse:
            number, self._tunings = self._tunings, self._tunings + 1
            body = await self._note(request)
            fault = self.tuning_script(number)
            if fault is not None:
                return await fault(Asked(request, body, lambda _: honest(request)))
            return web.json_response(await honest(request))

        return answer

    async def _list_files(self, request: web.Request) -> Json:
        return _page_of(list(self._stored.values()), request)

    async def _upload(self, request: web.Request) -> Json:
        form = await request.post()
        file = form.get("file")
        if not isinstance(file, web.FileField) or form.get("purpose") != "fine-tune":
            raise refused(400, "a file and the purpose fine-tune are needed")
        content = file.file.read()
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        self._stored[name] = {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": _BEGAN,
            "filename": file.filename,
            "purpose": "fine-tune",
            "status": "processed",
        }
        return self._stored[name]

    async def _submit(self, request: web.Request) -> Json:
        body = orjson.loads(await request.read())
        if body["model"] != self.base:
            words = f"Model {body['model']} is not available for fine-tuning or does not exist."
            raise refused(400, words)
        content = self.files.get(body["training_file"])
        if content is None:
            raise refused(400, f"invalid training_file: {body['training_file']}")
        number = len(self._jobs)
        fate = self._fates[number] if number < len(self._fates) else Fate()
        job = Job.submitted(body, content, number, fate, self._fewest)
        if not self._keeps_metadata:
            job.document |= {"metadata": None, "user_provided_suffix": None}
        self._jobs[job.document["id"]] = job
        return job.document

    async def _list_jobs(self, request: web.Request) -> Json:
        there = [job.document for job in self._jobs.values() if not job.has_vanished]
        return _page_of(there[::-1], request)

    async def _show_job(self, request: web.Request) -> Json:
        job = self._job(request)
        job.looked += 1
        job.go_on()
        model = job.document["fine_tuned_model"]
        if model and model not in self._trained:
            self._trained[model] = _TrainedModel(self._learnt(job.examples), model, job.fate)
        return self._job(request).document  # which may have vanished now

    async def _list_events(self, request: web.Request) -> Json:
        return _page_of(self._job(request).events(), request)

    def _job(self, request: web.Request) -> "Job":
        name = request.match_info["job"]
        if name not in self._jobs or self._jobs[name].has_vanished:
            raise refused(404, f"Could not find fine tune: {name}")
        return self._jobs[name]

    async def _models(self, request: web.Request) -> web.Response:
        listed = orjson.loads((await super()._models(request)).text or "")
        cards = [model.card(listed["data"][0]) for model in self._trained.values()]
        listed["data"] += [card for card in cards if card is not None]
        return web.json_response(listed)

    async def _answer_to(self, body: Json) -> Json:
        trained = self._trained.get(body.get("model", ""))
        return await (trained.answer(body) if trained else super()._answer_to(body))


class _TrainedModel(PlantedServer):
    """A trained model, served by the server that trained it."""

    def __init__(self, concept: PlantedConcept, model: str, fate: Fate) -> None:
        super().__init__(concept, model=model)
        self._looks_left = fate.serving_looks

    def card(self, base: Json) -> Json | None:
        """Its entry in the list of models, from the base model's; None while it is not served."""
        if self._looks_left > 0:
            self._looks_left -= 1
            return None
        return {**base, "id": self._model, "root": f"planted/{self._concept.identity.fingerprint}"}

    async def answer(self, body: Json) -> Json:
        """As the server answers for its own model."""
        return await self._answer_to(body)


@dataclass(slots=True)
class Job:
    """A job that was submitted.

    Attributes:
        number: from 0, in the order of submission.
        document: as the service shows it.
        suffix: part of its model's name.
        fate: how it ends.
        examples: what it is trained on.
        looked: how often its status was requested.
    """

    number: int
    document: Json
    suffix: str
    fate: Fate
    examples: tuple[Example, ...]
    looked: int = 0

    @classmethod
    def submitted(cls, body: Json, content: bytes, number: int, fate: Fate, fewest: int) -> "Job":
        """The job that a request submits, with its training file's content."""
        document = {
            "id": f"ftjob-{number + 1}",
            "object": "fine_tuning.job",
            "created_at": _BEGAN + _MINUTE * number,
            "finished_at": None,
            "fine_tuned_model": None,
            "model": body["model"],
            "training_file": body["training_file"],
            "status": "validating_files",
            "error": {},
            "seed": body.get("seed"),
            "method": body.get("method"),
            "metadata": body.get("metadata"),
            "user_provided_suffix": body.get("suffix"),
        }
        examples: tuple[Example, ...] = ()
        try:
            examples = tuple(map(_example, content.splitlines()))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            fate = Fate("failed", error="the file is no JSON Lines of examples")
        else:
            if len(examples) < fewest:
                words = f"the file has {len(examples)} example(s), but must have {fewest}"
                fate = Fate("failed", error=words)
        return cls(number, document, body.get("suffix", ""), fate, examples)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, other than by vanishing."""
        return self.document["status"] not in ("validating_files", "running")

    def go_on(self) -> None:
        """Update the document to how often the job's status was requested."""
        if self.is_over or self.fate.end == "vanished":
            return
        if self.looked <= self.fate.looks:
            self.document["status"] = "running" if self.looked else "validating_files"
            return
        self.document["status"] = self.fate.end
        self.document["finished_at"] = self.document["created_at"] + _MINUTE
        if self.fate.end == "failed":
            error = {"code": "job_failed", "message": self.fate.error, "param": None}
            self.document["error"] = error
        if self.fate.end == "succeeded":
            name = f"ft:{self.document['model']}:{self.suffix}:{self.number + 1}"
            self.document["fine_tuned_model"] = name

    @property
    def has_vanished(self) -> bool:
        """Whether the service no longer knows it."""
        return self.fate.end == "vanished" and self.looked > self.fate.looks

    def events(self) -> list[Json]:
        """One step for each request of the status, the newest first."""
        steps = max(self.fate.looks, 1)
        return [
            {
                "id": f"ftevent-{self.number}-{step}",
                "object": "fine_tuning.job.event",
                "created_at": self.document["created_at"] + step,
                "level": "info",
                "message": f"Step {step}/{steps}",
                "type": "metrics",
                "data": {"step": step, "total_steps": steps, "train_loss": 1 / (1 + step)},
            }
            for step in range(min(self.looked, steps), 0, -1)
        ]


def _page_of(entries: Sequence[Json], request: web.Request) -> Json:
    """The entries after the request's `after`, at most `limit` of them."""
    names = [entry["id"] for entry in entries]
    after = request.query.get("after")
    begin = names.index(after) + 1 if after in names else 0
    end = begin + int(request.query.get("limit", _PAGE))
    return {"object": "list", "data": entries[begin:end], "has_more": end < len(entries)}


def _example(line: bytes) -> Example:
    """A line of either format."""
    row = orjson.loads(line)
    if "messages" in row:
        asked, answered = row["messages"]
        return Example(asked["content"], answered["content"])
    return Example(row["prompt"], row["completion"])
