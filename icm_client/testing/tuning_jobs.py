"""Jobs of a planted fine-tuning service: what becomes of each, and how it is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import orjson
from aiohttp import web

from icm_client.runs.trainer import Example
from icm_client.testing.faults import Json

BEGAN: Final = 1_700_000_000
"""The service's clock, seconds since 1970; it goes on a minute a job."""

_MINUTE: Final = 60
_PAGE: Final = 20


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a job.

    Attributes:
        end: its last status; "vanished" is a job that the service does not know any more.
        looks: how often it is looked at before that, running.
        error: why it failed.
        serving_looks: how often the list of models is asked before it has the trained one.
    """

    end: Literal["succeeded", "failed", "cancelled", "vanished"] = "succeeded"
    looks: int = 2
    error: str | None = None
    serving_looks: int = 0


@dataclass(slots=True)
class Job:
    """A job that was submitted.

    Attributes:
        number: from 0, in the order of submission.
        document: what is told of it.
        suffix: part of its model's name.
        fate: what becomes of it.
        examples: what it is trained on.
        looked: how often it was looked at.
    """

    number: int
    document: Json
    suffix: str
    fate: Fate
    examples: tuple[Example, ...]
    looked: int = 0

    @classmethod
    def submitted(cls, body: Json, content: bytes, number: int, fate: Fate, fewest: int) -> "Job":
        """The job that a request asks for, on the training file's content."""
        document = {
            "id": f"ftjob-{number + 1}",
            "object": "fine_tuning.job",
            "created_at": BEGAN + _MINUTE * number,
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
        """Whether it has ended, in any way but vanishing."""
        return self.document["status"] not in ("validating_files", "running")

    def go_on(self) -> None:
        """Bring the document up to date with how often the job was looked at."""
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
        """Whether the service does not know it any more."""
        return self.fate.end == "vanished" and self.looked > self.fate.looks

    def events(self) -> list[Json]:
        """A step for each look, the newest first."""
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


def page_of(entries: Sequence[Json], request: web.Request) -> Json:
    """Those behind the request's `after`, at most `limit` of them."""
    names = [entry["id"] for entry in entries]
    after = request.query.get("after")
    begin = names.index(after) + 1 if after in names else 0
    end = begin + int(request.query.get("limit", _PAGE))
    return {"object": "list", "data": entries[begin:end], "has_more": end < len(entries)}


def refusal(code: int, words: str) -> web.HTTPException:
    """An error in OpenAI's shape, which aiohttp sends as it is."""
    body = {"error": {"message": words, "type": "invalid_request_error", "code": None}}
    kinds = {400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 404: web.HTTPNotFound}
    return kinds[code](text=orjson.dumps(body).decode(), content_type="application/json")


def _example(line: bytes) -> Example:
    """A line of either format."""
    told = orjson.loads(line)
    if "messages" in told:
        asked, answered = told["messages"]
        return Example(asked["content"], answered["content"])
    return Example(told["prompt"], told["completion"])
