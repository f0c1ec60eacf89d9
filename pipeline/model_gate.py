"""The EvalConfig of the stock Evaluator: ranking metrics and the gate's thresholds."""

import json

import tensorflow_model_analysis as tfma

from pipeline import ranking_metrics
from pipeline.config import ModelGateConfig
from sid_tfx.metrics.slices import SLICES


def eval_config(gate: ModelGateConfig) -> tfma.EvalConfig:
    """Returns what to measure on the servable's `evaluate` signature, and what it must reach."""
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="evaluate")],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(class_name="ExampleCount"),
                    _metric("RecallAtK", "recall_at_5", 5),
                    _metric("RecallAtK", "recall_at_10", 10, gate.min_recall_at_10),
                    _metric("NdcgAtK", "ndcg_at_5", 5),
                    _metric("NdcgAtK", "ndcg_at_10", 10),
                    _metric("ReciprocalRank", "mrr", 0),
                    *(_metric("NdcgAtK", f"ndcg@10 {name}", 10, users=name) for name in SLICES),
                    _metric(
                        "RecallOverPopularity",
                        "recall_at_10_over_popularity",
                        10,
                        gate.min_recall_over_popularity,
                    ),
                ]
            )
        ],
    )


def _metric(
    class_name: str, name: str, k: int, least: float | None = None, users: str = ""
) -> tfma.MetricConfig:
    config = tfma.MetricConfig(
        class_name=class_name,
        module=ranking_metrics.MODULE,
        config=json.dumps({"name": name, "k": k, "users": users}),
    )
    if least is not None:
        config.threshold.value_threshold.lower_bound.value = least
    return config
