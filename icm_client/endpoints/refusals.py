"""Why a server of OpenAI's protocol gives no log-probs, or not those of a label: what to say.

`icm_client.endpoints.openai_top_k` asks; here is what the user reads where that came to nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from icm_client.endpoints.served import NO_ROUTE
from icm_client.endpoints.whole_prompts import Top
from icm_client.errors import (
    EndpointError,
    EndpointFault,
    IcmError,
    ModelNotFound,
    RequestRefused,
    UnsupportedServer,
)

COMPLETIONS_PATH: Final = "/v1/completions"

_THINKING: Final = ("<think", "<|channel", "<reasoning", "[think")
"""How reasoning models begin: DeepSeek's and Qwen's, gpt-oss, others, Mistral's."""

_TELLING: Final = 3
"""A token of at least so many letters is likely to be the label's beginning, and no coincidence."""

_TAKE_ANOTHER: Final = (
    "ICM needs them: serve a base model with vLLM, SGLang or llama.cpp, whose log-probs are exact"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no log-probs come by a route.

    Attributes:
        path: of the route.
        error: what it answered; None where it answers without log-probs.
        thinks: whether the model thinks before it answers.
    """

    path: str
    error: IcmError | None = None
    thinks: bool = False

    @property
    def has_no_route(self) -> bool:
        """The server does not have the path, or not for a chat model."""
        if not isinstance(self.error, EndpointError):
            return False
        if "chat model" in str(self.error).lower():  # OpenAI's 404 to completions
            return True
        return self.error.status in NO_ROUTE and not isinstance(self.error, ModelNotFound)

    @property
    def refuses_log_probs(self) -> bool:
        """The server says that it gives none."""
        refused = isinstance(self.error, RequestRefused | EndpointFault)
        return refused and "logprobs" in str(self.error).lower()


def unsupported(url: str, model: str, refusals: Sequence[Refusal]) -> IcmError:
    """The error for a server all of whose routes refused: what it does instead, and what to do."""
    if any("logits_all=False" in str(one.error) for one in refusals):
        return UnsupportedServer(
            f"{url}: llama-cpp-python gives log-probs only where it is started with --logits_all "
            "true"
        )
    if (instead := _done_instead(model, refusals)) is not None:
        return UnsupportedServer(f"{url}: {instead}. {_TAKE_ANOTHER}")
    errors = [one.error for one in refusals if not one.has_no_route]
    for error in errors:
        if isinstance(error, ModelNotFound):
            return error
    if not errors:
        paths = " and no ".join(dict.fromkeys(one.path for one in refusals))
        return UnsupportedServer(
            f"{url} has no {paths}: it is not a model server's URL, or a gateway before the "
            f"server does not pass these on ({refusals[-1].error})"
        )
    if all(isinstance(error, EndpointFault) for error in errors):
        return EndpointFault(f"{url} fails whatever is asked: {errors[0]}")
    answers = "; ".join(dict.fromkeys(map(str, errors)))
    return UnsupportedServer(f"{url}: no log-probs of the most probable tokens: {answers}")


def _done_instead(model: str, refusals: Sequence[Refusal]) -> str | None:
    """What the server does in the place of giving log-probs; None where it only fails."""
    if any(one.thinks for one in refusals):
        return f"{model} is a reasoning model, which thinks before it answers, without log-probs"
    refused = [one.error for one in refusals if one.refuses_log_probs]
    if refused:
        return f"log-probs are refused for {model} ({refused[-1]})"
    if all(one.error is not None for one in refusals):
        return None
    of_texts = [one for one in refusals if one.path == COMPLETIONS_PATH]
    if of_texts and all(one.has_no_route for one in of_texts):
        return "this server answers chat only, and leaves log-probs out"
    return "this server leaves log-probs out of what it completes, as `transformers serve` does"


def begins_to_think(said: str) -> bool:
    """Whether this is how a reasoning model begins."""
    return said.lstrip().lower().startswith(_THINKING)


def written_instead(
    label: str, top: Top, *, is_chat: bool, redacted: Callable[[str], str]
) -> str | None:
    """What the model writes in the place of `label`, and what to do; None where that is not known.

    `top` are the most probable tokens after a prompt; a chat's answer has no space before it.
    """
    if begins_to_think(top[0][0]):
        return (
            "It is a reasoning model, which thinks before it answers, so that a label never "
            "comes first: take a base model, or switch its thinking off"
        )
    word = label.strip()
    for token, _ in top:
        said = token.strip()
        if len(said) < min(_TELLING, len(word)):
            continue
        if word.startswith(said) and not is_chat and token == said:
            return (
                f"The model writes {said!r} without a space before it: end the template with "
                "a line break, after which labels have none"
            )
        if word.casefold().startswith(said.casefold()) and not word.startswith(said):
            return (
                f"The model writes {redacted(said)!r}, with other capitals: write the labels as "
                "it does"
            )
    return None
