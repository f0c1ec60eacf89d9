"""AdTransformer: applies an earlier run's TransformGraph, where Transform would learn a new one.

In: `examples` (raw ads), `transform_graph`.
Out: `transformed_examples` (Examples, split `all`).
"""

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from components.ad_transformer.executor import Executor


class AdTransformerSpec(component_spec.ComponentSpec):
    """Inputs and outputs of AdTransformer."""

    PARAMETERS: dict = {}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
    }
    OUTPUTS = {
        "transformed_examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }


class AdTransformer(base_beam_component.BaseBeamComponent):
    """Transforms ads with vocabularies and moments that stay as they are.

    Stock Transform analyzes whatever it transforms. A frozen tokenizer needs the ids it was
    trained on: a word of a new ad that the graph doesn't know is an unknown word.

    Args:
        examples: Raw ads, split `all`.
        transform_graph: The graph that the tokenizer was trained on.
    """

    SPEC_CLASS = AdTransformerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, examples: types.BaseChannel, transform_graph: types.BaseChannel):
        super().__init__(
            AdTransformerSpec(
                examples=examples,
                transform_graph=transform_graph,
                transformed_examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
