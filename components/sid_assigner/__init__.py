"""SidAssigner: a semantic ID and an embedding for every ad."""

from components.sid_assigner.component import SidAssigner

__all__ = ["SidAssigner"]
