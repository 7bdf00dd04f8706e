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
from icm_client.scoring.planner import Branch, assign_lanes, optimal_tokens, plan, prune
from icm_client.scoring.prompts import LabelTokens, LabelTrie
from icm_client.scoring.scorer import Scorer, ScoringProgress
from icm_client.scoring.store import ScoreStore, default_path, open_store

__all__ = [
    "Branch",
    "LabelTokens",
    "LabelTrie",
    "Pieces",
    "ScoreStore",
    "Scorer",
    "ScorerStats",
    "ScoringProgress",
    "assign_lanes",
    "context_ids",
    "default_path",
    "open_store",
    "optimal_tokens",
    "plan",
    "prompt_ids",
    "prune",
    "token_counts",
    "tokenize_pieces",
    "with_prompts",
]
