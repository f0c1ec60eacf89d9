"""SidAssigner: gives every ad its codes and embedding, and tells equal codes apart.

In: `examples` (transformed ads), `tokenizer` (Model); optional: `previous` (SidCatalog).
Out: `catalog` (SidCatalog).
"""

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from components.artifacts import SidCatalog
from components.sid_assigner.executor import Executor


class SidAssignerSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of SidAssigner."""

    PARAMETERS = {
        "max_dedup": component_spec.ExecutionParameter(type=int),
        "alternatives": component_spec.ExecutionParameter(type=int),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "tokenizer": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "previous": component_spec.ChannelParameter(type=SidCatalog, optional=True),
    }
    OUTPUTS = {
        "catalog": component_spec.ChannelParameter(type=SidCatalog),
    }


class SidAssigner(base_beam_component.BaseBeamComponent):
    """Encodes the catalogue with Beam and resolves collisions.

    Args:
        examples: Transformed ads, split `all`.
        tokenizer: The trained SidTokenizer.
        max_dedup: Ads that may share one code tuple, told apart by the de-dup token.
        alternatives: Next-best code tuples tried for an ad past that bound.
        previous: A catalogue of the same tokenizer. Its ads keep codes, token and embedding, its
            bound replaces `max_dedup`, and ads that `examples` lacks are dropped.
    """

    SPEC_CLASS = SidAssignerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        tokenizer: types.BaseChannel,
        max_dedup: int,
        alternatives: int,
        previous: types.BaseChannel | None = None,
    ):
        super().__init__(
            SidAssignerSpec(
                examples=examples,
                tokenizer=tokenizer,
                previous=previous,
                max_dedup=max_dedup,
                alternatives=alternatives,
                catalog=types.Channel(type=SidCatalog),
            )
        )
