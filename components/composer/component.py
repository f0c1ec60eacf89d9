"""Composer: puts a generation's parts into the servables that are pushed.

In: `tokenizer`, `recommender` (Model), `transform_graph`, `catalog`, `index`, `index_blessing`,
`sequences` (Examples, split `train`: popularity, and users to tune an index with).
Out: `portable`, `scann` (Model, a SavedModel at `Format-Serving` each). `assets.extra/sid_tfx.json`
of each says under `dense_candidates` what finds the dense candidates of hybrid mode, and why.
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from components.artifacts import IndexBlessing, SidCatalog, SidIndex
from components.composer.executor import Executor


class ComposerSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of Composer."""

    PARAMETERS = {
        "max_history": component_spec.ExecutionParameter(type=int),
        "max_k": component_spec.ExecutionParameter(type=int),
        "max_exclude": component_spec.ExecutionParameter(type=int),
        "beam_size": component_spec.ExecutionParameter(type=int),
        "default_mode": component_spec.ExecutionParameter(type=str),
        "dense_index": component_spec.ExecutionParameter(type=str),
        "dense_min_recall": component_spec.ExecutionParameter(type=float),
        "seed": component_spec.ExecutionParameter(type=int),
    }
    INPUTS = {
        "tokenizer": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "recommender": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "catalog": component_spec.ChannelParameter(type=SidCatalog),
        "index": component_spec.ChannelParameter(type=SidIndex),
        "index_blessing": component_spec.ChannelParameter(type=IndexBlessing),
        "sequences": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        "portable": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "scann": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }


class Composer(base_component.BaseComponent):
    """Makes the portable and the ScaNN servable; refuses parts of different generations.

    Args:
        tokenizer: The trained SidTokenizer.
        transform_graph: What turned raw ads into the features it was trained on.
        recommender: The trained SidRecommender.
        catalog: The ads and their semantic IDs.
        index: IndexBuilder's index over the catalogue's embeddings.
        index_blessing: The gate's verdict on it.
        sequences: User sequences; the split `train` gives the popularity of ads and the users.
        max_history: Newest ads of a history that are read.
        max_k: Ads returned.
        max_exclude: Ads that a request may exclude.
        beam_size: Prefixes kept while decoding.
        default_mode: `"generative"` or `"hybrid"`: what `recommend` does.
        dense_index: What finds the dense candidates of hybrid mode: `"exact"` (all ads are scored),
            `"index"` (ScaNN, for the portable servable the partitioned index) or `"auto"` (the
            fastest that reaches the recall).
        dense_min_recall: Recall against all ads scored that an index of them must reach.
        seed: Draws the users that this index is tuned and judged with.
    """

    SPEC_CLASS = ComposerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        tokenizer: types.BaseChannel,
        transform_graph: types.BaseChannel,
        recommender: types.BaseChannel,
        catalog: types.BaseChannel,
        index: types.BaseChannel,
        index_blessing: types.BaseChannel,
        sequences: types.BaseChannel,
        max_history: int = 20,
        max_k: int = 20,
        max_exclude: int = 64,
        beam_size: int = 50,
        default_mode: str = "generative",
        dense_index: str = "auto",
        dense_min_recall: float = 0.95,
        seed: int = 0,
    ):
        super().__init__(
            ComposerSpec(
                tokenizer=tokenizer,
                transform_graph=transform_graph,
                recommender=recommender,
                catalog=catalog,
                index=index,
                index_blessing=index_blessing,
                sequences=sequences,
                max_history=max_history,
                max_k=max_k,
                max_exclude=max_exclude,
                beam_size=beam_size,
                default_mode=default_mode,
                dense_index=dense_index,
                dense_min_recall=dense_min_recall,
                seed=seed,
                portable=types.Channel(type=standard_artifacts.Model),
                scann=types.Channel(type=standard_artifacts.Model),
            )
        )
