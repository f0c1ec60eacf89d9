"""Runs the steps of a compiled Kubeflow pipeline here, one after the other.

Does what Kubeflow's driver and launcher do around a container: resolves a step's parameters and
artifacts into an `ExecutorInput`, puts it in place of `{{$}}`, runs the command, and merges the
`ExecutorOutput` into what later steps see. The interpreter of the tests stands for the image.
"""

import dataclasses
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as spec_pb2

_INPUT = "{{$}}"
Container = spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec


@dataclasses.dataclass(frozen=True)
class CompiledPipeline:
    """A pipeline document: the specification, and how each executor runs."""

    spec: spec_pb2.PipelineSpec
    deployment: spec_pb2.PipelineDeploymentConfig

    @classmethod
    def load(cls, path: Path) -> "CompiledPipeline":
        document = yaml.safe_load(path.read_text())
        spec = json_format.ParseDict(document, spec_pb2.PipelineSpec())
        deployment = json_format.ParseDict(
            document["deploymentSpec"], spec_pb2.PipelineDeploymentConfig()
        )
        return cls(spec, deployment)

    def order(self) -> list[str]:
        """The tasks, each after those it depends on."""
        tasks = self.spec.root.dag.tasks
        graph = {name: sorted(tasks[name].dependent_tasks) for name in sorted(tasks)}
        return list(graphlib.TopologicalSorter(graph).static_order())


class StepRunner:
    """Runs steps and remembers their output artifacts.

    Args:
        pipeline: What to run.
        root: Folder that stands for the pipeline root.
        hooks: Run the driver hooks, as Vertex AI does; open-source Kubeflow does not.
    """

    def __init__(self, pipeline: CompiledPipeline, root: Path, *, hooks: bool = True) -> None:
        self._pipeline = pipeline
        self._root = root
        self._hooks = hooks
        self.artifacts: dict[tuple[str, str], spec_pb2.RuntimeArtifact] = {}

    def run(self, name: str) -> None:
        """Runs one task; its upstream tasks have run.

        Raises:
            RuntimeError: A command failed; the message has the end of its log.
        """
        task = self._pipeline.spec.root.dag.tasks[name]
        component = self._pipeline.spec.components[task.component_ref.name]
        executor = self._pipeline.deployment.executors[component.executor_label]
        executor_input = self._executor_input(name, task, component)
        hook = executor.container.lifecycle.pre_cache_check
        if self._hooks and hook.command:
            self._execute(name, "driver", [*hook.command, *hook.args], executor_input)
            self._merge(executor_input)
        command = [*executor.container.command, *executor.container.args]
        self._execute(name, "executor", command, executor_input)
        self._merge(executor_input)
        for key, artifacts in executor_input.outputs.artifacts.items():
            self.artifacts[name, key] = artifacts.artifacts[0]

    def _executor_input(
        self, name: str, task: spec_pb2.PipelineTaskSpec, component: spec_pb2.ComponentSpec
    ) -> spec_pb2.ExecutorInput:
        result = spec_pb2.ExecutorInput()
        for key, parameter in task.inputs.parameters.items():
            result.inputs.parameter_values[key].CopyFrom(parameter.runtime_value.constant)
        for key, source in task.inputs.artifacts.items():
            producer = source.task_output_artifact
            assert producer.producer_task in task.dependent_tasks
            artifact = self.artifacts[producer.producer_task, producer.output_artifact_key]
            result.inputs.artifacts[key].artifacts.add().CopyFrom(artifact)
        for key, definition in component.output_definitions.artifacts.items():
            result.outputs.artifacts[key].artifacts.add(
                name=f"{name}-{key}",
                type=definition.artifact_type,
                uri=str(self._root / name / key),
                metadata=definition.metadata,
            )
        result.outputs.output_file = str(self._root / name / "executor_output.json")
        return result

    def _execute(
        self, name: str, what: str, command: list[str], executor_input: spec_pb2.ExecutorInput
    ) -> None:
        folder = self._root / name / "work"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = [
            part.replace(_INPUT, json_format.MessageToJson(executor_input)) for part in command
        ]
        assert arguments[0] == "python"
        log = self._root / name / f"{what}.log"
        with open(log, "w") as stream:
            # A folder of its own: nothing may depend on where a container happens to start.
            done = subprocess.run(
                [sys.executable, *arguments[1:]],
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{name}, {what}, exit {done.returncode}: {log.read_text()[-4000:]}")

    def _merge(self, executor_input: spec_pb2.ExecutorInput) -> None:
        """Takes over what a command reported: URIs, metadata and, from a hook, parameters."""
        report = Path(executor_input.outputs.output_file)
        reported = json_format.Parse(report.read_text(), spec_pb2.ExecutorOutput())
        for key, value in reported.parameter_values.items():
            executor_input.inputs.parameter_values[key].CopyFrom(value)
        for key, artifacts in reported.artifacts.items():
            known = executor_input.outputs.artifacts[key].artifacts[0]
            known.uri = artifacts.artifacts[0].uri or known.uri
            known.metadata.MergeFrom(artifacts.artifacts[0].metadata)
