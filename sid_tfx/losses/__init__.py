"""Losses of semantic-ID learning, each a layer usable on any tokenizer."""

from sid_tfx.losses.contrastive import (
    DualTowerContrastive,
    MultiGranularityContrastive,
    granularity_labels,
)
from sid_tfx.losses.reconstruction import CodebookCommitment, Reconstruction
from sid_tfx.losses.repulsion import HammingMarginRepulsion, conflict_mask
from sid_tfx.losses.summary import SummaryReconstruction

__all__ = [
    "CodebookCommitment",
    "DualTowerContrastive",
    "HammingMarginRepulsion",
    "MultiGranularityContrastive",
    "Reconstruction",
    "SummaryReconstruction",
    "conflict_mask",
    "granularity_labels",
]
