"""Log-probs on the embedded server that do not depend on what was cached before.

llama.cpp chooses its CPU kernels by the number of tokens in a batch: 1, 2 to 7, or 8 and more.
They round differently, so the log-odds of one prompt moved by up to 0.2 nats with how much of it
was cached. In batches of 8 and more, each token gets the same bits whatever stands beside it
(without repacked weights and without flash attention). So it is enough that no smaller batch ever
fills the cache or is read. Micro-batches of 4 would do as well, at 60% of the speed.
"""

from typing import Final

from icm_client.endpoints.protocol import TokenIds, common_prefix

MICRO_BATCH: Final = 512
"""Tokens: the server's `n_ubatch`. A longer prompt is cut into such pieces and a remainder."""

_SMALLEST: Final = 8
_REWIND: Final = 16


def preparation(cached: TokenIds, prompt: TokenIds) -> TokenIds | None:
    """Return what to send before `prompt`, so that it is computed in batches of 8 or more.

    It begins like `prompt` and ends in a token that `prompt` does not have there: the server then
    drops what it had cached after that place, and the odd token with it.

    Args:
        cached: what the slot holds: the last ids it was sent, or () if it will not reuse them.
        prompt: what it is sent next.

    Returns:
        None if nothing has to be sent. A prompt of fewer than 8 tokens is always computed whole.
    """
    kept = min(common_prefix(cached, prompt), len(prompt) - 1)
    new = len(prompt) - kept
    if new < _SMALLEST:
        start = max(0, len(prompt) - _REWIND)
        return None if kept == 0 else (*prompt[:start], 0 if prompt[start] else 1)
    if 0 < new % MICRO_BATCH < _SMALLEST:  # so new > MICRO_BATCH
        start = kept + MICRO_BATCH // 2
        return (*prompt[:start], 0 if prompt[start] else 1)
    return None
