"""RecommenderTrainer, a thin Trainer that reads a catalogue and refuses an unblessed one.

In: `examples` (user sequences, splits `train` and `validation`), `catalog`, `sid_blessing`.
Out: `model` (`Format-Serving/model.keras` and `metadata.json`), `model_run` (TensorBoard logs).
"""

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import trainer_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

from components import trainer
from components.artifacts import SidBlessing, SidCatalog
from components.verdict import require_blessed


class RecommenderTrainerSpec(component_spec.ComponentSpec):
    """TrainerSpec plus `catalog` and `sid_blessing`."""

    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS
    INPUTS = {
        **standard_component_specs.TrainerSpec.INPUTS,
        "catalog": component_spec.ChannelParameter(type=SidCatalog),
        "sid_blessing": component_spec.ChannelParameter(type=SidBlessing),
    }
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS


class Executor(trainer.Executor):
    """Checks the SID gate's verdict before it spends the time to train."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Refuses an unblessed catalogue, then trains."""
        require_blessed(artifact_utils.get_single_uri(input_dict["sid_blessing"]))
        super().Do(input_dict, output_dict, exec_properties)


class RecommenderTrainer(base_component.BaseComponent):
    """Trains the generative recommender with a `run_fn`.

    Args:
        examples: User sequences from InteractionBuilder.
        catalog: The semantic IDs to predict.
        sid_blessing: SidEvaluator's verdict on them.
        run_fn: Dotted path of the training function.
        custom_config: JSON-able settings handed to it.
    """

    SPEC_CLASS = RecommenderTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        catalog: types.BaseChannel,
        sid_blessing: types.BaseChannel,
        run_fn: str,
        custom_config: dict[str, Any],
    ):
        super().__init__(
            RecommenderTrainerSpec(
                examples=examples,
                catalog=catalog,
                sid_blessing=sid_blessing,
                run_fn=run_fn,
                train_args=trainer_pb2.TrainArgs(splits=["train"]),
                eval_args=trainer_pb2.EvalArgs(splits=["validation"]),
                custom_config=json_utils.dumps(custom_config),
                model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
