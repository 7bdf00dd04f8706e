"""What a run is: everything that can change its labels, and the name that follows from it."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

import orjson

from icm_client.data import JsonValue
from icm_client.data.job import Job
from icm_client.data.values import write_json
from icm_client.endpoints import ServerIdentity
from icm_client.scoring.prompts import PROTOCOL_VERSION

_PACKAGES = ("icm-client", "numpy", "openai", "httpx2", "aiohttp", "xllamacpp", "pyarrow")
_STEM_LENGTH = 40
_DIGEST_BYTES = 5
_TASK_FOR_PEOPLE = frozenset({"name", "description", "gold"})
_SECRET = re.compile(
    r"(^|[-_])((api|access|secret|private)[-_]?key|token|secret|password|authorization|bearer)$",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(
    f"^(key|sig)$|(signature|credential)$|{_SECRET.pattern}",
    re.IGNORECASE,  # of signed links
)


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What a run is. Gold labels are no part of it.

    Attributes:
        data: the data set's name, as the user gave it.
        rows: how many rows it has.
        rows_digest: hex, over ids, prompts and the fields that the constraint reads.
        task: the task's fields.
        settings: of the search.
        seed: of everything random.
        server: which server answers.
        part: what the rows are of those in the data set; None for all.
    """

    data: str
    rows: int
    rows_digest: str
    task: Mapping[str, JsonValue]
    settings: Mapping[str, JsonValue]
    seed: int
    server: ServerIdentity
    part: str | None = None

    @classmethod
    def of(
        cls,
        job: Job,
        settings: Mapping[str, JsonValue],
        seed: int,
        server: ServerIdentity,
        part: str | None = None,
    ) -> Self:
        """Describe the run of `job`; `settings` are all settings that can change its labels."""
        digest = blake2b(digest_size=16, person=b"icm run rows")
        own = any(rule.is_own for rule in job.task.rules)
        names = job.task.rule_fields
        for row in job.dataset.rows:
            # A rule that the user wrote in Python reads whole rows.
            read = row.fields if own else {name: row.fields.get(name) for name in names}
            digest.update(write_json([row.id, dict(read)]) + b"\n")
        for prompt in job.prompts:
            text = prompt.encode("utf-8", "surrogatepass")
            digest.update(len(text).to_bytes(8) + text)
        return cls(
            data=job.dataset.name,
            rows=len(job.dataset.rows),
            rows_digest=digest.hexdigest(),
            task=job.task.model_dump(mode="json"),
            settings=settings,
            seed=seed,
            server=server,
            part=part,
        )

    @property
    def name(self) -> str:
        """The data file's stem, the part of it if it is one, and ten hexadecimal digits."""
        content = {
            "rows": self.rows_digest,
            "task": {k: v for k, v in self.task.items() if k not in _TASK_FOR_PEOPLE},
            "settings": dict(self.settings),
            "seed": self.seed,
            "fingerprint": self.server.fingerprint,
            "model": self.server.model,
            "protocol": PROTOCOL_VERSION,
        }
        packed = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        digest = blake2b(packed, digest_size=_DIGEST_BYTES, person=b"icm run").hexdigest()
        part = "" if self.part is None else f"-{_plain(self.part)}"
        return f"{_stem(self.data)}{part}-{digest}"

    def document(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return {
            "data": self.data,
            "rows": self.rows,
            "rows_digest": self.rows_digest,
            "task": dict(self.task),
            "settings": dict(self.settings),
            "seed": self.seed,
            "server": asdict(self.server),
            **({} if self.part is None else {"part": self.part}),
        }


def _stem(data: str) -> str:
    """The file's name up to its first dot, in letters, digits, `_` and `-`."""
    stem = PurePath(data).name.lstrip(".").partition(".")[0]
    return _plain(stem)


def _plain(text: str) -> str:
    """The text in letters, digits, `_` and `-`; "rows" where nothing of it is left."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:_STEM_LENGTH] or "rows"


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that matter to a result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    return found


class KeptCommand(NamedTuple):
    """A command line without its secrets.

    Attributes:
        arguments: those that are kept.
        left_out: the options that are not.
    """

    arguments: tuple[str, ...]
    left_out: tuple[str, ...]


def without_secrets(arguments: Sequence[str]) -> KeptCommand:
    """Return the command line without options that carry keys and without passwords in URLs."""
    kept: list[str] = []
    left_out: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option.startswith("--") and _SECRET.search(option[2:]):
            left_out.append(option)
            if not equals:
                next(rest, None)
        elif equals and option.startswith("--"):
            kept.append(f"{option}={_plain_url(value, left_out)}")
        else:
            kept.append(_plain_url(argument, left_out))
    return KeptCommand(tuple(kept), tuple(left_out))


def _plain_url(argument: str, left_out: list[str]) -> str:
    if "://" not in argument or any(map(str.isspace, argument)):
        return argument
    try:
        parts = urlsplit(argument)
    except ValueError:
        return argument
    query = "&".join(
        pair for pair in parts.query.split("&") if not _SECRET_IN_URL.search(pair.partition("=")[0])
    )
    host = parts.netloc.rpartition("@")[2]
    if (host, query) == (parts.netloc, parts.query):
        return argument
    left_out.append(f"the password in {host}")
    return urlunsplit(parts._replace(netloc=host, query=query))
