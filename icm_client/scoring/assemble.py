"""Prompts as token ids, put together from pieces that were tokenized once.

A prompt is BOS, then for each demo its prompt, label and separator, then the target's prompt.
Because pieces are joined as ids, two contexts that begin with the same demos begin with the same
ids whatever follows, which a prefix cache needs; joined as text they might not.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from icm_client.coherence.problem import Context, Query
from icm_client.endpoints.identity_check import described
from icm_client.endpoints.protocol import (
    BatchTokenizer,
    Endpoint,
    LabelToken,
    TextEndpoint,
    TokenIds,
)
from icm_client.errors import ModelChanged, TaskError
from icm_client.scoring.drift import DRIFT_ADVICE
from icm_client.scoring.store import ScoreStore
from icm_client.task_groups import open_task_group

_CONCURRENCY = 16
"""Requests to the tokenizer in flight at most."""

_TEXTS = 64
"""Texts that a server is asked to tokenize in one request, where it can."""

_Tails = Sequence[tuple[Sequence[int], TokenIds | None]]
"""A label's ids after each kind of prompts, by their numbers; None where it merges with them."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The token ids that prompts are made of.

    Attributes:
        bos: what the model wants in front of every prompt; often one id, or none. Empty where the
            server takes text, and puts it there itself.
        prompts: one per item; never empty.
        labels: one per label, as it is written after a prompt.
        separator: stands between a demo's label and the next prompt.
        label_texts: one per label, for messages; may be left empty.
    """

    bos: TokenIds
    prompts: tuple[TokenIds, ...]
    labels: tuple[TokenIds, ...]
    separator: TokenIds
    label_texts: tuple[str, ...] = ()


def context_ids(pieces: Pieces, context: Context) -> TokenIds:
    """Return BOS and the demos of `context`, each followed by the separator."""
    ids = list(pieces.bos)
    for item, label in context:
        ids += pieces.prompts[item]
        ids += pieces.labels[label]
        ids += pieces.separator
    return tuple(ids)


def prompt_ids(pieces: Pieces, query: Query) -> TokenIds:
    """Return the context's ids and the target's prompt: what a label is asked after."""
    return context_ids(pieces, query.context) + pieces.prompts[query.target]


async def tokenize_pieces(
    prompts: Sequence[str],
    label_texts: Sequence[str],
    separator: str,
    endpoint: Endpoint,
    store: ScoreStore,
    *,
    merged: dict[int, str] | None = None,
) -> Pieces:
    """Tokenize each piece once; token ids that are in the store are not asked for again.

    A label's ids are what its text adds to a prompt's ids, which must be the same after every
    prompt; a tokenizer may write a word differently on its own. It is asked once for each way in
    which prompts end: one where the template ends in text, up to one a row where it ends in a
    field. The separator's ids are found likewise, from what it adds after the labels, where that is
    the same after each.

    Args:
        prompts: one per item, the template filled in, without the label.
        label_texts: one per label, exactly as it follows a prompt (most often " word").
        separator: stands between a demo's label and the next demo.
        endpoint: tokenizes.
        store: where token ids are kept.
        merged: where it is given, items after whose prompts a label is written differently than
            after most are put here with the reason, instead of raising; they cannot be scored.

    Raises:
        TaskError: a prompt is empty, prompts and a label merge into one token, or (on a server
            that takes only text) two labels begin with the same token.
        LabelMissing: a server that takes only text does not know a label.
        ModelChanged: the store has other ids of a prompt than the server's tokenizer gives.
        EndpointError: the server did not tokenize.
        StoreError: the store could not be read or written.
    """
    if isinstance(endpoint, TextEndpoint):
        fingerprint = endpoint.identity.fingerprint
        return await _text_pieces(
            prompts, label_texts, separator, endpoint, store, fingerprint=fingerprint
        )
    tokenizer = _Tokenizer(endpoint, store)
    await tokenizer.check([*prompts[:1], *prompts[-1:]])
    (bos,) = await tokenizer.ids([""], add_special=True)
    prompt_pieces = await tokenizer.ids(prompts)
    _refuse_empty(prompt_pieces)
    found: dict[int, str] = {}
    labels = []
    for text, tails in zip(
        label_texts, await _label_tails(prompts, prompt_pieces, label_texts, tokenizer), strict=True
    ):
        labels.append(_usual(text, prompts, tails))
        found = _odd(text, prompts, tails, labels[-1]) | found
    if merged is not None:
        merged.update(found)
    elif found:
        item, reason = min(found.items())
        others = f" (and so for {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise TaskError(f"prompt {item + 1}: {reason}{others}")
    sound = next((item for item in range(len(prompts)) if item not in found), 0)
    joined = [prompts[sound] + text + separator for text in label_texts] if prompts else []
    alone, *wholes = await tokenizer.ids([separator, *joined])
    after = {
        _tail(whole, prompt_pieces[sound] + label)
        for whole, label in zip(wholes, labels, strict=False)
    }
    tail = after.pop() if len(after) == 1 else None
    return Pieces(
        bos,
        tuple(prompt_pieces),
        tuple(labels),
        alone if tail is None else tail,
        tuple(label_texts),
    )


async def with_prompts(
    pieces: Pieces, prompts: Sequence[str], endpoint: Endpoint, store: ScoreStore
) -> tuple[Pieces, dict[int, str]]:
    """Tokenize further prompts, after which the labels are to be written as `pieces` has them.

    Returns:
        1. Pieces whose items are those of `pieces`, and then the further ones.
        2. The further ones that cannot be scored, counted from 0, with the reason: their prompt is
           empty, or a label is written differently after it.
    """
    found = {number: "its prompt is empty" for number, text in enumerate(prompts) if not text}
    if isinstance(endpoint, TextEndpoint):
        further = [tuple(map(ord, prompt)) for prompt in prompts]
    else:
        tokenizer = _Tokenizer(endpoint, store, kept=False)
        further = await tokenizer.ids(prompts)
        found |= {n: "its prompt has no tokens" for n, ids in enumerate(further) if not ids}
        there = [number for number in range(len(prompts)) if number not in found]
        texts, ids = [prompts[n] for n in there], [further[n] for n in there]
        for label, text, tails in zip(
            pieces.labels,
            pieces.label_texts,
            await _label_tails(texts, ids, pieces.label_texts, tokenizer),
            strict=True,
        ):
            found |= {there[n]: why for n, why in _odd(text, texts, tails, label).items()}
    return replace(pieces, prompts=(*pieces.prompts, *further)), found


async def token_counts(texts: Sequence[str], endpoint: Endpoint, store: ScoreStore) -> list[int]:
    """Return how many tokens each text takes; `endpoint` is no `TextEndpoint`.

    Ids that are in the store are not asked for again.
    """
    return list(map(len, await _Tokenizer(endpoint, store, kept=False).ids(texts)))


class _Tokenizer:
    """Token ids by way of the store, each text asked once."""

    def __init__(self, endpoint: Endpoint, store: ScoreStore, *, kept: bool = True) -> None:
        """With `kept`, the ids of many texts are to be kept in little memory."""
        self._endpoint = endpoint
        self._store = store
        self._numbers: dict[int, int] | None = {} if kept else None

    async def check(self, texts: Sequence[str]) -> None:
        """Raise `ModelChanged` where the store has other ids of these than the server."""
        identity = self._endpoint.identity
        if identity.of_weights:
            return
        stored = self._store.get_tokens(identity.fingerprint, texts, add_special=False)
        for text, ids in zip(texts, stored, strict=True):
            if ids is None or await self._endpoint.tokenize(text, add_special=False) == ids:
                continue
            raise ModelChanged(
                f"the stored token ids are not of the tokenizer that {described(identity)} has "
                f"now, though the server reports the same identity as then. {DRIFT_ADVICE}",
                last_confirmed_at=math.inf,
                stored=identity.fingerprint,
            )

    async def ids(self, texts: Sequence[str], *, add_special: bool = False) -> list[TokenIds]:
        fingerprint = self._endpoint.identity.fingerprint
        stored = self._store.get_tokens(fingerprint, texts, add_special=add_special)
        known = {
            text: self._interned(ids)
            for text, ids in zip(texts, stored, strict=True)
            if ids is not None
        }
        missing = iter([text for text in dict.fromkeys(texts) if text not in known])

        async def asked(part: Sequence[str]) -> Sequence[TokenIds]:
            if len(part) > 1 and not add_special and isinstance(self._endpoint, BatchTokenizer):
                found = await self._endpoint.tokenize_many(part)
                if found is not None:
                    return found
            return [await self._endpoint.tokenize(text, add_special=add_special) for text in part]

        async def work() -> None:
            while part := tuple(islice(missing, _TEXTS)):  # one iterator for all workers
                found = await asked(part)
                self._store.put_tokens(fingerprint, part, found, add_special=add_special)
                known.update(zip(part, map(self._interned, found), strict=True))

        async with open_task_group() as tasks:
            for _ in range(_CONCURRENCY):
                tasks.start_soon(work)
        return [known[text] for text in texts]

    def _interned(self, ids: TokenIds) -> TokenIds:
        """Return the same ids, each number one object: this saves four fifths at 100,000 rows."""
        if self._numbers is None:
            return ids
        return tuple(self._numbers.setdefault(number, number) for number in ids)


def _refuse_empty(prompts: Sequence[TokenIds] | Sequence[str]) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise TaskError(f"item {number} (counting from 0) makes an empty prompt.")


def _endings(prompts: Sequence[str], ids: Sequence[TokenIds]) -> list[list[int]]:
    """Return the prompts' numbers, those together after which a tokenizer writes labels alike.

    Whether a label merges depends on the last token, and on the white space at the end: after a
    line break, gemma's tokenizer merges a space with the label's own, after a word it may not.
    """
    alike: dict[tuple[int, str], list[int]] = {}
    for number, (prompt, own) in enumerate(zip(prompts, ids, strict=True)):
        alike.setdefault((own[-1], prompt[len(prompt.rstrip()) :]), []).append(number)
    return list(alike.values())


async def _label_tails(
    prompts: Sequence[str],
    ids: Sequence[TokenIds],
    label_texts: Sequence[str],
    tokenizer: _Tokenizer,
) -> list[_Tails]:
    """What each label's text adds to prompts' ids, asked once for each way in which they end."""
    endings = _endings(prompts, ids)
    found: list[_Tails] = []
    for text in label_texts:
        wholes = await tokenizer.ids([prompts[items[0]] + text for items in endings])
        found.append(
            [
                (items, _tail(whole, ids[items[0]]))
                for items, whole in zip(endings, wholes, strict=True)
            ]
        )
    return found


def _usual(text: str, prompts: Sequence[str], tails: _Tails) -> TokenIds:
    """Return a label's ids after most prompts.

    Raises:
        TaskError: it is not written in one way after more than half of them.
    """
    counts = Counter[TokenIds | None]()
    for items, tail in tails:
        counts[tail] += len(items)
    usual, count = counts.most_common(1)[0] if counts else ((), 0)
    tie = 2 * count == len(prompts) and len(counts) > 1
    if usual is not None and 2 * count >= len(prompts) and not tie:
        return usual
    first = {tail: prompts[items[0]][-20:] for items, tail in tails}
    if None in first:
        raise TaskError(
            f"the label {text!r} merges with the end of the prompt ({first[None]!r}) in this "
            "model's tokenizer, so it has no tokens of its own. Change the end of the template: "
            "let it end in a mark such as ':' without a space after it, and let the label begin "
            "with the space."
        )
    one, other = list(first.values())[:2]
    raise TaskError(
        f"this model's tokenizer writes the label {text!r} differently after {one!r} and after "
        f"{other!r}. Let the template end in the same text for every item, such as 'Answer:'."
    )


def _odd(text: str, prompts: Sequence[str], tails: _Tails, usual: TokenIds) -> dict[int, str]:
    """Prompts after which the label `text` is not written as `usual`, with what to do."""
    odd = {}
    for items, tail in tails:
        if tail == usual:
            continue
        how = (
            f"merges the label {text!r} with this prompt's end"
            if tail is None
            else f"writes the label {text!r} after this prompt's end"
        )
        for item in items:
            odd[item] = (
                f"the model's tokenizer {how} ({prompts[item][-20:]!r}), unlike with the others: "
                "change how the text ends, or let the template end in a mark such as ':'"
            )
    return odd


def _tail(whole: TokenIds, head: TokenIds) -> TokenIds | None:
    """Return what follows `head` in `whole`, or None where `whole` does not begin with it."""
    return whole[len(head) :] if whole[: len(head)] == head else None


async def _text_pieces(
    prompts: Sequence[str],
    label_texts: Sequence[str],
    separator: str,
    endpoint: TextEndpoint,
    store: ScoreStore,
    *,
    fingerprint: str,
) -> Pieces:
    """Return pieces whose ids are code points, and one id a label (`TextEndpoint`).

    How the server begins a label is asked once a task, after its first row.
    """
    _refuse_empty(prompts)
    first = prompts[0] if prompts else ""
    questions = [f"{label}\0{separator}\0{first}" for label in label_texts]
    stored = store.get_tokens(fingerprint, questions, add_special=True)
    begins: dict[str, str] = {}
    labels = []
    for label, question, known in zip(label_texts, questions, stored, strict=True):
        if known is not None:
            found = LabelToken(label, "".join(map(chr, known)))
        else:
            found = await endpoint.find_label_token(label, prompt=first, separator=separator)
            ids = tuple(map(ord, found.token))
            store.put_tokens(fingerprint, [question], [ids], add_special=True)
        other = begins.setdefault(found.token or label, label)
        if other != label:
            raise TaskError(
                f"the labels {other!r} and {label!r} cannot be told apart: the server begins both "
                f"with the token {found.token!r}. Choose words that begin differently."
            )
        labels.append((endpoint.name_label(found),))
    texts = [tuple(map(ord, prompt)) for prompt in prompts]
    return Pieces((), tuple(texts), tuple(labels), tuple(map(ord, separator)), tuple(label_texts))
