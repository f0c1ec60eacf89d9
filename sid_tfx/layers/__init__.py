"""Layers of the recommender, each usable on its own."""

from sid_tfx.layers.ad_embedding import AdEmbedding
from sid_tfx.layers.catalog_softmax import CatalogSoftmax
from sid_tfx.layers.causal_block import CausalBlock
from sid_tfx.layers.context_embedding import ContextEmbedding
from sid_tfx.layers.cross_attention import MaskedAttention
from sid_tfx.layers.dense_head import DenseHead
from sid_tfx.layers.level_head import LevelHead
from sid_tfx.layers.successor_memory import SuccessorMemory

__all__ = [
    "AdEmbedding",
    "CatalogSoftmax",
    "CausalBlock",
    "ContextEmbedding",
    "DenseHead",
    "LevelHead",
    "MaskedAttention",
    "SuccessorMemory",
]
