"""Nearest-neighbour retrieval: one `TopK` interface, exact and approximate indices behind it."""

from sid_tfx.retrieval.brute_force import BruteForce
from sid_tfx.retrieval.measurement import Queries, Recall, milliseconds, recall
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.selection import FLAVOURS, Choice, Selection, build_index
from sid_tfx.retrieval.storage import load_index, save_index
from sid_tfx.retrieval.topk import PADDING_SCORE, TopK, exclude
from sid_tfx.retrieval.tuning import Trial

__all__ = [
    "FLAVOURS",
    "PADDING_SCORE",
    "BruteForce",
    "Choice",
    "Partitioned",
    "Queries",
    "Recall",
    "ScaNN",
    "Selection",
    "TopK",
    "Trial",
    "build_index",
    "exclude",
    "load_index",
    "milliseconds",
    "recall",
    "save_index",
]
