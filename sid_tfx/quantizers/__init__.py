"""Quantizers: from a vector to L codes, one file a strategy behind one interface."""

from sid_tfx.quantizers.grouped import GroupedResidualQuantizer
from sid_tfx.quantizers.initialization import balanced_kmeans
from sid_tfx.quantizers.parallel import ParallelQuantizer
from sid_tfx.quantizers.product import ProductQuantizer
from sid_tfx.quantizers.quantizer import Quantizer, QuantizerOutput
from sid_tfx.quantizers.residual import ResidualQuantizer
from sid_tfx.quantizers.residual_product import ResidualProductQuantizer
from sid_tfx.quantizers.vector import VectorQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "residual": ResidualQuantizer,
    "product": ProductQuantizer,
    "grouped": GroupedResidualQuantizer,
    "residual_product": ResidualProductQuantizer,
    "parallel": ParallelQuantizer,
}

__all__ = [
    "QUANTIZERS",
    "GroupedResidualQuantizer",
    "ParallelQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerOutput",
    "ResidualProductQuantizer",
    "ResidualQuantizer",
    "VectorQuantizer",
    "balanced_kmeans",
]
