"""TokenizerTrainer, a thin Trainer with one more input.

In: `examples` (transformed ads, split `all`), `transform_graph`, `pairs` (Swing pairs).
Out: `model` (`Format-Serving/model.keras` and `metadata.json`), `model_run` (TensorBoard logs).
"""

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import trainer_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

from components.trainer import Executor


class TokenizerTrainerSpec(component_spec.ComponentSpec):
    """TrainerSpec plus `pairs`."""

    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS
    INPUTS = {
        **standard_component_specs.TrainerSpec.INPUTS,
        "pairs": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS


class TokenizerTrainer(base_component.BaseComponent):
    """Trains the joint encoder and quantizer with a `run_fn`.

    Args:
        examples: Transformed ads.
        transform_graph: The graph that made them.
        pairs: Swing pairs from InteractionBuilder.
        run_fn: Dotted path of the training function.
        custom_config: JSON-able settings handed to it.
    """

    SPEC_CLASS = TokenizerTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        pairs: types.BaseChannel,
        run_fn: str,
        custom_config: dict[str, Any],
    ):
        super().__init__(
            TokenizerTrainerSpec(
                examples=examples,
                transform_graph=transform_graph,
                pairs=pairs,
                run_fn=run_fn,
                train_args=trainer_pb2.TrainArgs(splits=["all"]),
                eval_args=trainer_pb2.EvalArgs(splits=["all"]),
                custom_config=json_utils.dumps(custom_config),
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
