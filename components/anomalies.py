"""Reads what ExampleValidator found."""

import os

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.dsl.io import fileio
from tfx.types import artifact_utils


def read_anomalies(artifact: types.Artifact) -> dict[str, str]:
    """Returns every anomaly of an ExampleAnomalies artifact: column -> what is wrong with it."""
    found: dict[str, str] = {}
    for split in artifact_utils.decode_split_names(artifact.split_names):
        report = anomalies_pb2.Anomalies()
        with fileio.open(
            os.path.join(artifact.uri, f"Split-{split}", "SchemaDiff.pb"), "rb"
        ) as file:
            report.ParseFromString(file.read())
        for column, info in sorted(report.anomaly_info.items()):
            found[column] = info.description
        if report.HasField("dataset_anomaly_info"):
            found["the table"] = report.dataset_anomaly_info.description
    return found
