"""The EvalConfig of the stock Evaluator: ranking metrics and the gate's thresholds."""

import json

import tensorflow_model_analysis as tfma

from pipeline import list_metrics, ranking_metrics
from pipeline.config import ModelGateConfig
from sid_tfx.metrics.slices import COLD, SLICES


def eval_config(gate: ModelGateConfig) -> tfma.EvalConfig:
    """Returns what to measure on the servable's `evaluate` signature, and what it must reach."""
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="evaluate")],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(class_name="ExampleCount"),
                    *(metric for rank in ranking_metrics.RANKS for metric in _of_rank(rank, gate)),
                    *(_metric("NdcgAtK", f"ndcg@10 {name}", 10, users=name) for name in SLICES),
                    tfma.MetricConfig(class_name="ListFigures", module=list_metrics.MODULE),
                    _metric("RecallAtK", f"recall@10 {COLD}", 10, users=COLD),
                    _metric(
                        "RecallOverPopularity",
                        "recall@10_over_popularity",
                        10,
                        gate.min_recall_over_popularity,
                    ),
                ]
            )
        ],
    )


def _of_rank(rank: str, gate: ModelGateConfig) -> list[tfma.MetricConfig]:
    """The metrics of a record, e.g. `sid_recall@10` of `sid_rank`; the gate is on `rank`."""
    prefix = rank.removesuffix("rank")
    least = None if prefix else gate.min_recall_at_10
    return [
        _metric("RecallAtK", f"{prefix}recall@5", 5, rank=rank),
        _metric("RecallAtK", f"{prefix}recall@10", 10, least, rank=rank),
        _metric("NdcgAtK", f"{prefix}ndcg@5", 5, rank=rank),
        _metric("NdcgAtK", f"{prefix}ndcg@10", 10, rank=rank),
        _metric("ReciprocalRank", f"{prefix}mrr", 0, rank=rank),
        _interval("RecallInterval", f"{prefix}recall@10", rank),
        _interval("NdcgInterval", f"{prefix}ndcg@10", rank),
    ]


def _interval(class_name: str, name: str, rank: str) -> tfma.MetricConfig:
    return tfma.MetricConfig(
        class_name=class_name,
        module=ranking_metrics.MODULE,
        config=json.dumps({"name": name, "k": 10, "rank": rank}),
    )


def _metric(
    class_name: str,
    name: str,
    k: int,
    least: float | None = None,
    rank: str = "rank",
    users: str = "",
) -> tfma.MetricConfig:
    config = tfma.MetricConfig(
        class_name=class_name,
        module=ranking_metrics.MODULE,
        config=json.dumps({"name": name, "k": k, "rank": rank, "users": users}),
    )
    if least is not None:
        config.threshold.value_threshold.lower_bound.value = least
    return config
