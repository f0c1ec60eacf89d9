"""Semantic IDs for ads and recommenders: tokenizers, a generative recommender and their export."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# TensorFlow Recommenders and TF Transform are built on tf_keras; our models are Keras 3. The
# variable must be set before anything touches `tf.keras`, so the package root is the place.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

if TYPE_CHECKING:
    from sid_tfx.catalog import SidCatalog
    from sid_tfx.decoder import SidDecoder
    from sid_tfx.recommender import SidRecommender
    from sid_tfx.tokenizer import SidTokenizer

__all__ = ["SidCatalog", "SidDecoder", "SidRecommender", "SidTokenizer"]

_MODULES = {
    "SidCatalog": "catalog",
    "SidDecoder": "decoder",
    "SidRecommender": "recommender",
    "SidTokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    # Only where it is asked for: parts of the package need no Keras, and JAX no TensorFlow.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
