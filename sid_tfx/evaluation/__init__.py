"""The harness: every method, one protocol, records that people and scripts read."""

from sid_tfx.evaluation.bootstrap import bootstrap_mean, paired_bootstrap
from sid_tfx.evaluation.exhaustive import ExhaustiveRecommender
from sid_tfx.evaluation.harness import (
    MAX_HISTORY,
    GenerativeRecommender,
    Recommender,
    Result,
    evaluate,
)
from sid_tfx.evaluation.hybrid_weights import choose_hybrid_weights
from sid_tfx.evaluation.report import full_record
from sid_tfx.evaluation.slices import list_figures, user_slices

__all__ = [
    "MAX_HISTORY",
    "ExhaustiveRecommender",
    "GenerativeRecommender",
    "Recommender",
    "Result",
    "bootstrap_mean",
    "choose_hybrid_weights",
    "evaluate",
    "full_record",
    "list_figures",
    "paired_bootstrap",
    "user_slices",
]
