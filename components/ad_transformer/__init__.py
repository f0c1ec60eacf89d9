"""AdTransformer: raw ads to features by a graph that an earlier run made."""

from components.ad_transformer.component import AdTransformer

__all__ = ["AdTransformer"]
