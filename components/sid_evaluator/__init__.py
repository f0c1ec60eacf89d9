"""SidEvaluator: the gate on semantic-ID quality."""

from components.sid_evaluator.component import SidEvaluator

__all__ = ["SidEvaluator"]
