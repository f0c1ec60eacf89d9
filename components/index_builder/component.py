"""IndexBuilder: builds ScaNN over a catalogue's embeddings and holds it against brute force.

In: `catalog` (SidCatalog).
Out: `index` (SidIndex: `manifest.json`, and `scann/` where ScaNN may serve), `blessing`
(IndexBlessing: `verdict.json`).
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec

from components.artifacts import IndexBlessing, SidCatalog, SidIndex
from components.index_builder.executor import Executor


class IndexBuilderSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of IndexBuilder."""

    PARAMETERS = {
        "kind": component_spec.ExecutionParameter(type=str),
        "k": component_spec.ExecutionParameter(type=int),
        "max_k": component_spec.ExecutionParameter(type=int),
        "min_recall": component_spec.ExecutionParameter(type=float),
        "seed": component_spec.ExecutionParameter(type=int),
    }
    INPUTS = {
        "catalog": component_spec.ChannelParameter(type=SidCatalog),
    }
    OUTPUTS = {
        "index": component_spec.ChannelParameter(type=SidIndex),
        "blessing": component_spec.ChannelParameter(type=IndexBlessing),
    }


class IndexBuilder(base_component.BaseComponent):
    """Chooses an index by measurement.

    Args:
        catalog: The ads and their embeddings.
        kind: `"auto"` (the faster index that meets the target), `"scann"` or `"brute_force"`.
        k: Neighbours that recall counts.
        max_k: Most similar ads that any request may ask for.
        min_recall: Recall@k against brute force that ScaNN must reach.
        seed: Draws the ads that serve as queries.
    """

    SPEC_CLASS = IndexBuilderSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        catalog: types.BaseChannel,
        kind: str = "auto",
        k: int = 10,
        max_k: int = 20,
        min_recall: float = 0.95,
        seed: int = 0,
    ):
        super().__init__(
            IndexBuilderSpec(
                catalog=catalog,
                kind=kind,
                k=k,
                max_k=max_k,
                min_recall=min_recall,
                seed=seed,
                index=types.Channel(type=SidIndex),
                blessing=types.Channel(type=IndexBlessing),
            )
        )
