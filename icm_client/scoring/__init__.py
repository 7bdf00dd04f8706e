"""Log-probs of labels after contexts: prompts, the order of requests, and the score store.

`Scorer` is the `icm_client.coherence.problem.Score` that a search is given.
"""

from icm_client.scoring.assemble import (
    Pieces,
    context_ids,
    prompt_ids,
    token_counts,
    tokenize_pieces,
    with_prompts,
)
from icm_client.scoring.call import ScorerStats
from icm_client.scoring.planner import optimal_tokens
from icm_client.scoring.prompts import LabelTrie
from icm_client.scoring.scorer import Scorer, ScoringProgress
from icm_client.scoring.store import ScoreStore, default_path, open_store

__all__ = [
    "LabelTrie",
    "Pieces",
    "ScoreStore",
    "Scorer",
    "ScorerStats",
    "ScoringProgress",
    "context_ids",
    "default_path",
    "open_store",
    "optimal_tokens",
    "prompt_ids",
    "token_counts",
    "tokenize_pieces",
    "with_prompts",
]
