"""One readable line about what a stage made, stock components included."""

import os
from collections.abc import Callable

import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma
from tfx import types
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts

from components.anomalies import read_anomalies
from pipeline.local_runner import Stage

_NEWLINE = b"\n"
# Of the Evaluator's many metrics: item level, plain, and what the gate looks at.
_HEADLINES = ("ndcg@10", "ndcg@5", "recall@10", "recall@10_over_popularity", "recall@5")


def line(stage: Stage) -> str:
    """Says what a stage made: its own summary, else what its outputs show."""
    if stage.summary:
        return stage.summary
    artifacts = [artifact for values in stage.outputs.values() for artifact in values]
    for artifact_type, describe in _DESCRIPTIONS.items():
        for artifact in artifacts:
            if type(artifact) is artifact_type:
                return describe(artifact)
    return ""


def overall_metrics(artifact: types.Artifact) -> dict[str, float]:
    """Returns the Evaluator's metrics over all users: name -> value."""
    result = tfma.load_eval_result(artifact.uri)
    for slice_key, metrics in result.slicing_metrics:
        if not slice_key:
            return {name: value["doubleValue"] for name, value in metrics[""][""].items()}
    return {}


def _statistics(artifact: types.Artifact) -> str:
    parts = []
    for split in artifact_utils.decode_split_names(artifact.split_names):
        path = os.path.join(artifact.uri, f"Split-{split}", "FeatureStats.pb")
        statistics = tfdv.load_stats_binary(path).datasets[0]
        parts.append(f"{statistics.num_examples:,} rows, {len(statistics.features)} columns")
    return "; ".join(parts)


def _anomalies(artifact: types.Artifact) -> str:
    found = read_anomalies(artifact)
    return "no anomalies" if not found else f"{len(found)} anomalies: {found}"


def _transform(artifact: types.Artifact) -> str:
    assets = os.path.join(artifact.uri, "transform_fn", "assets")
    sizes = []
    for name in sorted(fileio.listdir(assets)) if fileio.exists(assets) else []:
        with fileio.open(os.path.join(assets, name), "rb") as file:
            sizes.append(f"{name} {file.read().count(_NEWLINE):,}")
    return "vocabularies: " + (", ".join(sizes) or "none")


def _evaluation(artifact: types.Artifact) -> str:
    metrics = overall_metrics(artifact)
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in _HEADLINES if name in metrics)


def _pushed(artifact: types.Artifact) -> str:
    if artifact.get_int_custom_property("pushed"):
        return artifact.get_string_custom_property("pushed_destination")
    return "NOT pushed"


def _schema(artifact: types.Artifact) -> str:
    path = os.path.join(artifact.uri, "schema.pbtxt")
    return f"{len(tfdv.load_schema_text(path).feature)} columns"


# The first type that a stage has among its outputs speaks for it.
_DESCRIPTIONS: dict[type[types.Artifact], Callable[[types.Artifact], str]] = {
    standard_artifacts.TransformGraph: _transform,
    standard_artifacts.ExampleStatistics: _statistics,
    standard_artifacts.ExampleAnomalies: _anomalies,
    standard_artifacts.ModelEvaluation: _evaluation,
    standard_artifacts.PushedModel: _pushed,
    standard_artifacts.Schema: _schema,
}
