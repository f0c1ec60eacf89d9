"""IndexBuilder: the nearest-neighbour index over ad embeddings, and the gate on its recall."""

from components.index_builder.component import IndexBuilder

__all__ = ["IndexBuilder"]
