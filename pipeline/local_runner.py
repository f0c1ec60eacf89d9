"""Runs the pipeline in this process and tells, stage by stage, what was made in what time."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import data_types, launcher, runtime_parameter_utils, tfx_runner
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.proto.orchestration import pipeline_pb2

from components.artifacts import SUMMARY_PROPERTY


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage did.

    Attributes:
        name: Node id.
        seconds: Wall time.
        cached: Whether an earlier run's outputs were taken.
        summary: The stage line its executor wrote, "" for stock components.
        outputs: Output key -> artifacts.
        error: What went wrong; None where nothing did.
    """

    name: str
    seconds: float
    cached: bool
    summary: str
    outputs: dict[str, list[types.Artifact]]
    error: Exception | None = None


class StageFailed(Exception):
    """A stage raised; `stage` says which, `__cause__` says why."""

    def __init__(self, stage: Stage):
        super().__init__(f"{stage.name} failed: {stage.error}")
        self.stage = stage


class LocalRunner(tfx_runner.IrBasedRunner):
    """LocalDagRunner that reports each stage as it ends.

    TFX's own runner launches the same nodes the same way, but tells nobody between them.

    Args:
        started: Called with a node id before the node runs.
        finished: Called with its `Stage` after it ran, failed stages included.
    """

    def __init__(self, started: Callable[[str], None], finished: Callable[[Stage], None]):
        self._started = started
        self._finished = finished

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, run_options: Any = None) -> list[Stage]:
        """Runs every node in topological order.

        Raises:
            StageFailed: A node's driver or executor raised.
        """
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline,
            {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.datetime.now().isoformat()},
        )
        deployment = runner_utils.extract_local_deployment_config(pipeline)
        connection = getattr(
            deployment.metadata_connection_config,
            deployment.metadata_connection_config.WhichOneof("connection_config"),
        )
        stages = []
        for node in pipeline.nodes:
            node_id = node.pipeline_node.node_info.id
            self._started(node_id)
            begin = time.monotonic()
            try:
                execution = launcher.Launcher(
                    pipeline_node=node.pipeline_node,
                    mlmd_connection=metadata.Metadata(connection),
                    pipeline_info=pipeline.pipeline_info,
                    pipeline_runtime_spec=pipeline.runtime_spec,
                    executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
                    custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
                ).launch()
                _check_done(execution, connection)
            except Exception as error:
                stage = Stage(node_id, time.monotonic() - begin, False, "", {}, error)
                self._finished(stage)
                raise StageFailed(stage) from error
            stage = _stage(node_id, time.monotonic() - begin, execution, connection)
            self._finished(stage)
            stages.append(stage)
        return stages


def _check_done(execution: data_types.ExecutionInfo | None, connection: Any) -> None:
    """Raises where a node failed without raising, as TFX's own resolvers do."""
    if execution is None or execution.execution_id is None:
        return
    with metadata.Metadata(connection) as handle:
        [record] = handle.store.get_executions_by_id([execution.execution_id])
    if record.last_known_state == metadata_store_pb2.Execution.FAILED:
        raise RuntimeError("TFX recorded a failure and raised nothing; the log says why")


def _stage(
    name: str, seconds: float, execution: data_types.ExecutionInfo | None, connection: Any
) -> Stage:
    if execution is None:
        return Stage(name, seconds, True, "", {})
    # Outputs come from the metadata: the launcher's own copy is unpublished for a cached node.
    with metadata.Metadata(connection) as handle:
        outputs = execution_lib.get_output_artifacts(handle, execution.execution_id)
    summaries = {
        key: artifact.get_string_custom_property(SUMMARY_PROPERTY)
        for key, artifacts in sorted(outputs.items())
        for artifact in artifacts
        if artifact.get_string_custom_property(SUMMARY_PROPERTY)
    }
    summary = "; ".join(
        text if len(summaries) == 1 else f"{key}: {text}" for key, text in summaries.items()
    )
    cached = not execution.tmp_dir
    return Stage(name, seconds, cached, summary, dict(outputs))
