"""Print docs/api.md: what `icm_client`, `icm_client.testing` and `icm_client.errors` offer."""

import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType

try:
    import icm_client
    import icm_client.errors
    import icm_client.testing
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[dev]'\n"
    )
    sys.exit(2)


_HEAD = """# Python reference

Written by `scripts/docs` from the docstrings; [python.md](python.md) shows how the parts are used.
"""


def members(kind: type) -> Iterator[tuple[str, str]]:
    """Each public method and property of a class of ours: how it is called, docstring."""
    for name, member in vars(kind).items():
        inner = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            inner = member.fget
        if name.startswith("_") or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        called = name if isinstance(member, property) else f"{name}{signature(inner)}"
        yield called, inspect.cleandoc(inner.__doc__)


def signature(of: object) -> str:
    """Parameters without their types, which the docstring explains."""
    try:
        found = inspect.signature(of)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "()"
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in found.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    text = str(found.replace(parameters=shown, return_annotation=inspect.Signature.empty))
    return re.sub(r"<function \S+ at 0x[0-9a-f]+>|<factory>", "...", text)


def section(name: str, found: object) -> Iterator[str]:
    """The lines on one name."""
    doc = inspect.cleandoc(getattr(found, "__doc__", None) or "")
    if inspect.isclass(found):
        head = f"class {name}"
        if not issubclass(found, BaseException):
            head += signature(found)
    elif callable(found):
        coroutine = "async " if inspect.iscoroutinefunction(found) else ""
        head = f"{coroutine}{name}{signature(found)}"
    else:
        return
    yield f"\n### {name}\n\n```text\n{head}\n```\n\n```text\n{doc}\n```\n"
    if inspect.isclass(found):
        for called, text in members(found):
            yield f"\n**`{called}`**\n\n```text\n{text}\n```\n"


def page(modules: tuple[tuple[ModuleType, list[str]], ...]) -> str:
    """The whole page."""
    parts = [_HEAD]
    for module, names in modules:
        title = inspect.cleandoc(module.__doc__ or "").split("\n", 1)[0]
        parts.append(f"\n## {module.__name__}\n\n{title}\n")
        for name in names:
            parts += section(name, getattr(module, name))
    return "".join(parts)


def errors() -> list[str]:
    """Every error, from the root down."""
    found = [
        (len(value.__mro__), name)
        for name, value in vars(icm_client.errors).items()
        if inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__ == icm_client.errors.__name__
    ]
    return [name for _, name in sorted(found)]


if __name__ == "__main__":
    print(
        page(
            (
                (icm_client, [name for name in icm_client.__all__ if not name.startswith("_")]),
                (icm_client.testing, sorted(icm_client.testing.__all__)),
                (icm_client.errors, errors()),
            )
        ),
        end="",
    )
