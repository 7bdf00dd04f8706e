r"""Make pairs of short poems, one of which mentions the sun: the rows of arbitrary_preference.py.

    python examples/replication/make_poems.py poems.jsonl
    python examples/replication/make_poems.py poems.jsonl --from-model -e http://localhost:8000

In every pair one poem mentions the sun and the other does not, and one is cheerful and the other
sad. Which of the two stands first, and whether the sun's poem is the cheerful one, is balanced: the
four ways are equally common, so that neither preference says anything about the other.

Without a server the poems are synthetic: lines drawn from the lists below, with a seed. With
`--from-model` the served model writes them through its completions route, and whatever is not of
the kind asked for (the sun, or none of it; the number of lines) is thrown away. The mood is then
the one that was asked for: nobody has checked that the poem has it.
"""

import random
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Final, NamedTuple

try:
    import icm_client.cli.main  # noqa: F401 - nothing works without the package
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"Error: icm-client is not installed for {sys.executable} (no module {missing.name}). Run: "
        "pip install -e '.[local]'\n"
    )
    sys.exit(2)

import anyio
import click
import orjson
from openai import AsyncOpenAI, OpenAIError

from icm_client.cli.main import main
from icm_client.data.whole_files import replace_file
from icm_client.errors import IcmError, InputError
from icm_client.settings import Environment

Pair = dict[str, str | int]

LINES: Final = 4
MENTIONS_SUN: Final = re.compile(r"\bsun\b", re.IGNORECASE)
NEAR_SUN: Final = re.compile(r"\b(sun(?!day)|solar)", re.IGNORECASE)
"""What a poem without the sun may not hold: sunrise, sunlit and sunny would be half a mention."""

IN_FLIGHT: Final = 32
ASKED_A_POEM: Final = 10
"""Completions that are asked for each poem wanted, before it is said that this does not work."""

OTHER_THINGS = ("moon", "rain", "wind", "river", "snow", "tide", "fog", "lantern")
PEOPLE = ("my sister", "the baker", "our neighbour", "the children", "an old friend", "my brother")
PLACES = ("hill", "harbour", "orchard", "station", "garden", "bridge", "market", "meadow")
CHEERFUL_THINGS = (
    "The {thing} came dancing over the {place},",
    "Up went the {thing} above the {place}, and I cheered,",
    "We sang to the {thing} all the way to the {place},",
    "The {thing} played hide and seek behind the {place},",
)
CHEERFUL_LINES = (
    "{person} laughed until we all joined in,",
    "there was warm bread, and a table full of jokes,",
    "my pockets are full of whistles today,",
    "every door on our street stood open,",
    "we danced the whole way to the {place},",
    "{person} waved with both hands and a smile,",
    "good news ran ahead of the postman,",
    "I skipped twice for the joy of it,",
)
SAD_THINGS = (
    "The {thing} passed over the empty {place},",
    "I watched the {thing} leave the {place} behind,",
    "The {thing} found nobody at the {place},",
    "Even the {thing} was tired above the {place},",
)
SAD_LINES = (
    "{person} never came home again,",
    "I set one plate where there had been two,",
    "the letters came back unopened,",
    "we stood by the grave and had no words,",
    "nobody calls my name at the {place} now,",
    "{person} wept behind the kitchen door,",
    "the house has forgotten how to sing,",
    "I kept your coat, and it has lost your scent,",
)
LINES_OF = {True: (CHEERFUL_THINGS, CHEERFUL_LINES), False: (SAD_THINGS, SAD_LINES)}


class Kind(NamedTuple):
    """What a poem is to be: with the sun or without it, cheerful or sad."""

    sun: bool
    cheerful: bool


KINDS = tuple(Kind(sun, cheerful) for sun, cheerful in product((True, False), repeat=2))


def template_poem(kind: Kind, chance: random.Random) -> str:
    """A poem of `LINES` lines, one of which names the sun, or something else in its place."""
    things, others = LINES_OF[kind.cheerful]
    lines = [chance.choice(things), *chance.sample(others, LINES - 1)]
    chance.shuffle(lines)
    thing = "sun" if kind.sun else chance.choice(OTHER_THINGS)
    written = [
        line.format(thing=thing, person=chance.choice(PEOPLE), place=chance.choice(PLACES))
        for line in lines
    ]
    capital = [line[0].upper() + line[1:] for line in written]
    return "\n".join([*capital[:-1], capital[-1].rstrip(",") + "."])


def template_poems(kind: Kind, count: int, chance: random.Random) -> list[str]:
    """So many different poems of a kind."""
    poems: dict[str, None] = {}
    while len(poems) < count:
        poems[template_poem(kind, chance)] = None
    return list(poems)


def pairs_of(poems: dict[Kind, list[str]], count: int, chance: random.Random) -> list[Pair]:
    """Pair each poem with one that differs in the sun and in the mood, in balanced order.

    Args:
        poems: as many of each kind as `needed` says.
        count: of pairs.
        chance: decides the order of the pairs.
    """
    left = {kind: iter(of_kind) for kind, of_kind in poems.items()}
    pairs = [
        (next(left[first]), next(left[Kind(not first.sun, not first.cheerful)]), first)
        for first in islice(cycle(KINDS), count)
    ]
    chance.shuffle(pairs)
    return [
        {
            "id": number,
            "poem_1": on_one_line(poem),
            "poem_2": on_one_line(other),
            "sun": str(first.sun),
            "cheerful": str(first.cheerful),
        }
        for number, (poem, other, first) in enumerate(pairs, start=1)
    ]


def needed(count: int) -> dict[Kind, int]:
    """How many poems of each kind so many pairs take."""
    wanted = dict.fromkeys(KINDS, 0)
    for first in islice(cycle(KINDS), count):
        wanted[first] += 1
        wanted[Kind(not first.sun, not first.cheerful)] += 1
    return wanted


def template_pairs(count: int, seed: int) -> list[Pair]:
    """Pairs of synthetic poems; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - rows that can be made again
    poems = {kind: template_poems(kind, n, chance) for kind, n in needed(count).items()}
    return pairs_of(poems, count, chance)


def on_one_line(poem: str) -> str:
    """The poem as a prompt shows it: verses divided by a stroke."""
    return " / ".join(poem.splitlines())


def request_for(kind: Kind, chance: random.Random) -> str:
    """A prompt that a base model goes on with such a poem: one poem of each kind stands before."""
    shown = [(shot, template_poem(shot, chance)) for shot in chance.sample(KINDS, len(KINDS))]
    heads = [f"{head(shot)}\n{poem}\n\n" for shot, poem in shown]
    return f"Short poems of {LINES} lines each.\n\n{''.join(heads)}{head(kind)}\n"


def head(kind: Kind) -> str:
    """What stands over a poem in that prompt."""
    mood = "cheerful" if kind.cheerful else "sad"
    return f"Mood: {mood}. Mentions the sun: {'yes' if kind.sun else 'no'}. Poem:"


def accepted(text: str, kind: Kind, prompt: str) -> str | None:
    """The poem in a completion, or None where it is not of the kind or was copied."""
    lines = [line.strip() for line in text.strip().splitlines()]
    poem = "\n".join(lines)
    if len(lines) != LINES or not all(lines) or any(line in prompt for line in lines):
        return None
    fits = MENTIONS_SUN.search(poem) if kind.sun else not NEAR_SUN.search(poem)
    return poem if fits else None


async def model_pairs(url: str, model: str | None, count: int, seed: int) -> list[Pair]:
    """Pairs of poems that the served model writes.

    Raises:
        IcmError: the server does not answer, or too few of its poems are of the kind asked for.
    """
    chance = random.Random(seed)  # noqa: S311
    key = Environment().api_key
    base = f"{url.rstrip('/').removesuffix('/v1')}/v1"
    try:
        async with AsyncOpenAI(
            base_url=base, api_key=key.get_secret_value() if key else "none"
        ) as client:
            name = model or (await client.models.list()).data[0].id
            poems = {
                kind: await model_poems(client, name, kind, n, chance)
                for kind, n in needed(count).items()
            }
    except OpenAIError as error:
        raise IcmError(f"{base}: no poems: {error}") from error
    return pairs_of(poems, count, chance)


async def model_poems(
    client: AsyncOpenAI, model: str, kind: Kind, count: int, chance: random.Random
) -> list[str]:
    """So many different poems of a kind.

    Raises:
        OpenAIError: the server does not answer.
        IcmError: too few are of the kind asked for.
    """
    poems: dict[str, None] = {}
    limit = anyio.CapacityLimiter(IN_FLIGHT)

    async def ask(prompt: str, seed: int) -> None:
        async with limit:
            answer = await client.completions.create(
                model=model,
                prompt=prompt,
                max_tokens=40 * LINES,
                temperature=1.0,
                seed=seed,
                stop=["\n\n", "Mood:"],
            )
        poem = accepted(answer.choices[0].text, kind, prompt)
        if poem is not None:
            poems[poem] = None

    asked = 0
    while len(poems) < count:
        missing = count - len(poems)
        if asked >= ASKED_A_POEM * count:
            raise IcmError(
                f"of {asked} poems that the model wrote {len(poems)} are as asked for "
                f"({head(kind)!r}, {LINES} lines), and {count} are needed: take a larger model, "
                "or leave --from-model out"
            )
        async with anyio.create_task_group() as tasks:
            for _ in range(missing):
                tasks.start_soon(ask, request_for(kind, chance), chance.getrandbits(31))
        asked += missing
        click.echo(f"{head(kind)} {len(poems)} of {count} fit, of {asked} written", err=True)
    return list(poems)[:count]


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--pairs", "count", default=128, show_default=True, type=click.IntRange(4))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--from-model", is_flag=True, help="Have the served model write the poems.")
@click.option("-e", "--endpoint", metavar="URL", help="[env: ICM_ENDPOINT]")
@click.option("-m", "--model", help="[env: ICM_MODEL; default: the server's first]")
def make(
    output: Path,
    count: int,
    seed: int,
    *,
    from_model: bool,
    endpoint: str | None,
    model: str | None,
) -> None:
    """Write pairs of poems to OUTPUT, as JSON Lines."""
    if from_model:
        environment = Environment()
        url = endpoint or environment.endpoint
        if url is None:
            raise InputError("--from-model needs a server: name it with --endpoint")
        pairs = anyio.run(model_pairs, url, model or environment.model, count, seed)
    else:
        pairs = template_pairs(count, seed)
    try:
        replace_file(output, b"".join(as_lines(pairs)))
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror}") from error
    click.echo(f"{len(pairs)} pairs in {output}")


def as_lines(pairs: Sequence[Pair]) -> Iterator[bytes]:
    """The pairs as JSON Lines."""
    return (orjson.dumps(pair, option=orjson.OPT_APPEND_NEWLINE) for pair in pairs)


if __name__ == "__main__":
    main(make)
