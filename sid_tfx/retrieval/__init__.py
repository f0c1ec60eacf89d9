"""Nearest-neighbour retrieval: one `TopK` interface, exact and approximate indices behind it."""

from sid_tfx.retrieval.brute_force import BruteForce
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.selection import Measurement, Selection, build_index, measure
from sid_tfx.retrieval.storage import load_index, save_index
from sid_tfx.retrieval.topk import PADDING_SCORE, TopK

__all__ = [
    "PADDING_SCORE",
    "BruteForce",
    "Measurement",
    "ScaNN",
    "Selection",
    "TopK",
    "build_index",
    "load_index",
    "measure",
    "save_index",
]
