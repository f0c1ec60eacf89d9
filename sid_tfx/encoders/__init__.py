"""Encoders: from an ad's features to the vector that a quantizer reads."""

from sid_tfx.encoders.ad_encoder import AdEncoder, AdStates
from sid_tfx.encoders.joint import JointEncoder
from sid_tfx.encoders.latent import Latent, LatentEncoder
from sid_tfx.encoders.parallel import ParallelEncoder
from sid_tfx.encoders.tower import TowerEncoder
from sid_tfx.encoders.vector import VectorEncoder

ENCODERS: dict[str, type[LatentEncoder]] = {
    "joint": JointEncoder,
    "parallel": ParallelEncoder,
    "tower": TowerEncoder,
    "vectors": VectorEncoder,
}
"""The latent encoders by the name that configurations use."""

__all__ = [
    "ENCODERS",
    "AdEncoder",
    "AdStates",
    "JointEncoder",
    "Latent",
    "LatentEncoder",
    "ParallelEncoder",
    "TowerEncoder",
    "VectorEncoder",
]
