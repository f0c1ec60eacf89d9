"""IndexBuilder: indices over a catalogue's joint embeddings and over its SID embeddings.

In: `catalog` (SidCatalog), `tokenizer` (Model): what the codes stand for.
Out: `index` (SidIndex), `blessing` (IndexBlessing: `verdict.json`). The index artifact holds a
folder for each index, `<space>/<kind>`, `curve.png`, and `manifest.json`, which names the folder to
serve by space (`embedding`, `sid_embedding`) and flavour (`portable`, `scann`).
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

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
        "tokenizer": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "index": component_spec.ChannelParameter(type=SidIndex),
        "blessing": component_spec.ChannelParameter(type=IndexBlessing),
    }


class IndexBuilder(base_component.BaseComponent):
    """Chooses indices by measurement.

    Args:
        catalog: The ads, their embeddings and codes.
        tokenizer: The SidTokenizer that made them.
        kind: `"auto"` (the fastest index that meets the target), `"scann"` (where its ops may be
            served; elsewhere as `"auto"`), `"partitioned"` or `"brute_force"`.
        k: Neighbours that recall counts.
        max_k: Most similar ads that any request may ask for.
        min_recall: Recall@k against brute force that an index must reach.
        seed: Draws the ads that serve as queries.
    """

    SPEC_CLASS = IndexBuilderSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        catalog: types.BaseChannel,
        tokenizer: types.BaseChannel,
        kind: str = "auto",
        k: int = 10,
        max_k: int = 20,
        min_recall: float = 0.95,
        seed: int = 0,
    ):
        super().__init__(
            IndexBuilderSpec(
                catalog=catalog,
                tokenizer=tokenizer,
                kind=kind,
                k=k,
                max_k=max_k,
                min_recall=min_recall,
                seed=seed,
                index=types.Channel(type=SidIndex),
                blessing=types.Channel(type=IndexBlessing),
            )
        )
