"""Quantizers: from a vector to L codes, one file a strategy behind one interface."""

from sid_tfx.quantizers.quantizer import Quantizer, QuantizerOutput
from sid_tfx.quantizers.residual import ResidualQuantizer

__all__ = ["Quantizer", "QuantizerOutput", "ResidualQuantizer"]
