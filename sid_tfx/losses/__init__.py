"""Losses of semantic-ID learning, each a layer usable on any tokenizer."""

from sid_tfx.losses.alignment import CollaborativeAlignment
from sid_tfx.losses.contrastive import (
    DualTowerContrastive,
    MultiGranularityContrastive,
    granularity_labels,
)
from sid_tfx.losses.diversity import CodeDiversity, equal_clusters
from sid_tfx.losses.escape import CollisionEscape
from sid_tfx.losses.reconstruction import CodebookCommitment, Reconstruction
from sid_tfx.losses.repulsion import HammingMarginRepulsion, conflict_mask
from sid_tfx.losses.summary import SummaryReconstruction

__all__ = [
    "CodeDiversity",
    "CodebookCommitment",
    "CollaborativeAlignment",
    "CollisionEscape",
    "DualTowerContrastive",
    "HammingMarginRepulsion",
    "MultiGranularityContrastive",
    "Reconstruction",
    "SummaryReconstruction",
    "conflict_mask",
    "equal_clusters",
    "granularity_labels",
]
