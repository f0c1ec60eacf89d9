"""IndexBuilder: the nearest-neighbour indices over ads, and the gate on their recall."""

from components.index_builder.component import IndexBuilder

__all__ = ["IndexBuilder"]
