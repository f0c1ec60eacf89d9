"""RecommenderRefresher: the weights of the last push, the tables of a new catalogue and log.

In: `recommender` (Model), `previous` (the SidCatalog it was made from), `catalog` (the new one),
`examples` (user sequences, split `train`), `sid_blessing`.
Out: `model` (`Format-Serving/model.keras` and `metadata.json`).
"""

import os
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.artifacts import SidBlessing, SidCatalog, set_summary
from components.refusal import Refused
from components.verdict import require_blessed


class RecommenderRefresherSpec(component_spec.ComponentSpec):
    """Inputs and outputs of RecommenderRefresher."""

    PARAMETERS = {"successors": component_spec.ExecutionParameter(type=int)}
    INPUTS = {
        "recommender": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "previous": component_spec.ChannelParameter(type=SidCatalog),
        "catalog": component_spec.ChannelParameter(type=SidCatalog),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "sid_blessing": component_spec.ChannelParameter(type=SidBlessing),
    }
    OUTPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }


class Executor(base_executor.BaseExecutor):
    """Checks the SID gate's verdict and the generation, moves the weights over, counts anew."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the recommender of the new catalogue.

        Raises:
            Refused: The catalogue was not blessed, or the recommender is not of the previous one.
        """
        from sid_tfx.bundle import load_bundle, save_bundle
        from sid_tfx.catalog import SidCatalog as Catalog
        from sid_tfx.datasets.catalog_rows import flat_sequences
        from sid_tfx.datasets.records import read_sequences
        from sid_tfx.datasets.successors import SuccessorTable
        from sid_tfx.refresh import refresh_recommender

        self._log_startup(input_dict, output_dict, exec_properties)
        uri = {key: artifact_utils.get_single_uri(value) for key, value in input_dict.items()}
        require_blessed(uri["sid_blessing"])
        previous, catalog = Catalog.load(uri["previous"]), Catalog.load(uri["catalog"])
        trained, metadata = load_bundle(os.path.join(uri["recommender"], "Format-Serving"))
        made_from = metadata["fingerprints"]["catalog"]
        if made_from != previous.fingerprint:
            raise Refused(
                f"The recommender was made from catalogue {made_from}, but the last push has "
                f"{previous.fingerprint}; train with `python pipeline.py run`."
            )
        new = int((previous.rows(catalog.ad_ids) < 0).sum())
        gone = int((catalog.rows(previous.ad_ids) < 0).sum())
        model = artifact_utils.get_single_instance(output_dict["model"])
        train = artifact_utils.get_split_uri(input_dict["examples"], "train")
        # A model without a memory has no weight for one.
        most = 0 if trained.successors is None else exec_properties["successors"]
        # Counting what follows which ad in the log of today takes no training.
        histories = flat_sequences(read_sequences(os.path.join(train, "*")), catalog)
        successors = SuccessorTable.count(histories, len(catalog), most)
        summary = (
            f"{len(catalog):,} ads: {new:,} new, {gone:,} gone; weights as they were, "
            f"{len(successors):,} pairs of successors"
        )
        save_bundle(
            refresh_recommender(trained, previous, catalog, successors),
            path_utils.serving_model_dir(model.uri),
            {
                "summary": summary,
                "fingerprints": {
                    "catalog": catalog.fingerprint,
                    "recommender": metadata["fingerprint"],
                },
            },
        )
        set_summary(model, summary)


class RecommenderRefresher(base_component.BaseComponent):
    """Carries a trained recommender over to a new catalogue; trains nothing.

    Args:
        recommender: The recommender of the last push.
        previous: The catalogue of the last push.
        catalog: The catalogue that extends it.
        examples: Today's user sequences; the memory of successors is counted on split `train`.
        sid_blessing: SidEvaluator's verdict on `catalog`.
        successors: Ads remembered per ad that followed it, by a model that has a memory.
    """

    SPEC_CLASS = RecommenderRefresherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        recommender: types.BaseChannel,
        previous: types.BaseChannel,
        catalog: types.BaseChannel,
        examples: types.BaseChannel,
        sid_blessing: types.BaseChannel,
        successors: int,
    ):
        super().__init__(
            RecommenderRefresherSpec(
                recommender=recommender,
                previous=previous,
                catalog=catalog,
                examples=examples,
                sid_blessing=sid_blessing,
                successors=successors,
                model=types.Channel(type=standard_artifacts.Model),
            )
        )
