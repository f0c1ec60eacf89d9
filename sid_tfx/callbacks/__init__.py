"""Callbacks that keep codebooks alive, move settings and report while a tokenizer trains."""

from sid_tfx.callbacks.codebooks import CodebookRefit, DeadCodeRevival
from sid_tfx.callbacks.health import CollapseGuard, SidHealth
from sid_tfx.callbacks.mining import ConflictMining
from sid_tfx.callbacks.order import LogWriter, writers_first
from sid_tfx.callbacks.schedules import DiversityRefresh, ExplorationDecay, LearningRateDecay

__all__ = [
    "CodebookRefit",
    "CollapseGuard",
    "ConflictMining",
    "DeadCodeRevival",
    "DiversityRefresh",
    "ExplorationDecay",
    "LearningRateDecay",
    "LogWriter",
    "SidHealth",
    "writers_first",
]
