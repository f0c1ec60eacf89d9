"""What the two trainers share: extra inputs handed to `run_fn`, and a stage line from its metadata.

Stock Trainer has no input for pairs, a catalogue or another model. Its executor's `_GetFnArgs` is
the one hook; everything else of Trainer (run_fn by dotted path, outputs, layout) is kept.
"""

import json
import os
from typing import Any

from tfx import types
from tfx.components.trainer import executor
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs

from components.artifacts import set_summary

_STOCK_INPUTS = {
    standard_component_specs.EXAMPLES_KEY,
    standard_component_specs.TRANSFORM_GRAPH_KEY,
    standard_component_specs.SCHEMA_KEY,
    standard_component_specs.BASE_MODEL_KEY,
    standard_component_specs.HYPERPARAMETERS_KEY,
}


class Executor(executor.GenericExecutor):
    """GenericExecutor that also hands over `custom_config["inputs"]`: input key -> artifact URI."""

    def _GetFnArgs(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> FnArgs:
        fn_args = super()._GetFnArgs(input_dict, output_dict, exec_properties)
        inputs = {
            key: artifact_utils.get_single_uri(artifacts)
            for key, artifacts in sorted(input_dict.items())
            if key not in _STOCK_INPUTS and artifacts
        }
        fn_args.custom_config = {**(fn_args.custom_config or {}), "inputs": inputs}
        return fn_args

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs `run_fn` and copies the summary it wrote in `metadata.json` onto the artifact."""
        super().Do(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(output_dict[standard_component_specs.MODEL_KEY])
        with fileio.open(os.path.join(model.uri, "Format-Serving", "metadata.json")) as file:
            set_summary(model, json.load(file)["summary"])
