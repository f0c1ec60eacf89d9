"""ServingValidator: serves each candidate, sends real requests, gathers every gate's verdict.

In: `portable`, `scann` (Model), `ads` and `sequences` (Examples, where the requests come from), and
the other gates: `sid_blessing`, `index_blessing`, `model_blessing` with `evaluation`,
`ads_anomalies`, `events_anomalies`.
Out: `portable_blessing`, `scann_blessing` (InfraBlessing): the servable with its warm-up file, as
TFX's own InfraValidator lays it out, and `verdict.json`.

TFX's InfraValidator needs a Docker daemon or a cluster and does not run under Kubeflow v2; this
component needs neither.
"""

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from components.artifacts import IndexBlessing, SidBlessing
from components.serving_validator.executor import Executor

_channel = component_spec.ChannelParameter


class ServingValidatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of ServingValidator."""

    PARAMETERS = {
        "load_seconds": component_spec.ExecutionParameter(type=int),
        "requests": component_spec.ExecutionParameter(type=int),
        "max_p95_ms": component_spec.ExecutionParameter(type=float),
    }
    INPUTS = {
        "portable": _channel(type=standard_artifacts.Model),
        "scann": _channel(type=standard_artifacts.Model),
        "ads": _channel(type=standard_artifacts.Examples),
        "sequences": _channel(type=standard_artifacts.Examples),
        "sid_blessing": _channel(type=SidBlessing),
        "index_blessing": _channel(type=IndexBlessing),
        "model_blessing": _channel(type=standard_artifacts.ModelBlessing),
        "evaluation": _channel(type=standard_artifacts.ModelEvaluation),
        "ads_anomalies": _channel(type=standard_artifacts.ExampleAnomalies),
        "events_anomalies": _channel(type=standard_artifacts.ExampleAnomalies),
    }
    OUTPUTS = {
        "portable_blessing": _channel(type=standard_artifacts.InfraBlessing),
        "scann_blessing": _channel(type=standard_artifacts.InfraBlessing),
    }


class ServingValidator(base_component.BaseComponent):
    """Starts the model server on each candidate and holds everything known against the limits.

    Args:
        limits: `load_seconds` a version may take to become AVAILABLE, `requests` sent through
            `recommend`, `max_p95_ms` they may take.
        **inputs: One channel for each input of the spec.
    """

    SPEC_CLASS = ServingValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, limits: dict[str, Any], **inputs: types.BaseChannel):
        super().__init__(
            ServingValidatorSpec(
                portable_blessing=types.Channel(type=standard_artifacts.InfraBlessing),
                scann_blessing=types.Channel(type=standard_artifacts.InfraBlessing),
                **inputs,
                **limits,
            )
        )
