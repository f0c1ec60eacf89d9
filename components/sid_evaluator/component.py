"""SidEvaluator: measures a catalogue's semantic IDs against limits.

In: `catalog` (SidCatalog), `examples` (transformed ads, for the category tree); optionally `pairs`
(Swing pairs, for the embedding hit rate) and `previous` (an earlier SidCatalog, for churn).
Out: `blessing` (SidBlessing): `verdict.json` and every measured figure in `quality.json`.
"""

import json
import os
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.utils import io_utils

from components.artifacts import SidBlessing, SidCatalog, set_summary
from components.verdict import Check, write_verdict


class SidEvaluatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of SidEvaluator."""

    PARAMETERS = {
        "max_collision_share": component_spec.ExecutionParameter(type=float),
        "max_largest_group": component_spec.ExecutionParameter(type=int),
        "min_entropy_share": component_spec.ExecutionParameter(type=float),
        "min_coverage": component_spec.ExecutionParameter(type=float),
        "schema": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "catalog": component_spec.ChannelParameter(type=SidCatalog),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "pairs": component_spec.ChannelParameter(type=standard_artifacts.Examples, optional=True),
        "previous": component_spec.ChannelParameter(type=SidCatalog, optional=True),
    }
    OUTPUTS = {
        "blessing": component_spec.ChannelParameter(type=SidBlessing),
    }


def checks(quality: dict[str, Any], ads: int, codebook_size: int, limits: dict[str, Any]) -> list:
    """Holds measured SID quality against the limits; one check per limit."""
    coverage = min(quality["coverage"])
    # A level can use at most one code per ad: a catalogue of 50 ads is not a collapsed codebook.
    reachable = min(1.0, ads / codebook_size)
    rows = [
        ("collision_share", quality["collision_share"], limits["max_collision_share"], "most"),
        ("largest_group", quality["largest_group"], limits["max_largest_group"], "most"),
        ("entropy_share", quality["entropy_share"], limits["min_entropy_share"], "least"),
        ("coverage", coverage, limits["min_coverage"] * reachable, "least"),
    ]
    words = {
        "collision_share": "the share of ads that share their semantic ID with another",
        "largest_group": "the largest group of ads with one semantic ID",
        "entropy_share": "the entropy of semantic IDs as a share of its maximum",
        "coverage": "the share of codes in use at the emptiest level",
    }
    return [
        Check(
            name=name,
            value=float(value),
            limit=float(limit),
            ok=bool(value <= limit if bound == "most" else value >= limit),
            sentence=f"{words[name]} is {value:.4g}, the limit is at {bound} {limit:.4g}",
        )
        for name, value, limit, bound in rows
    ]


class Executor(base_executor.BaseExecutor):
    """Measures, writes the evidence and the verdict."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Blesses the catalogue, or says what is wrong with it."""
        from components.sid_evaluator.measure import measure
        from sid_tfx.catalog import SidCatalog as Catalog
        from sid_tfx.features import AdSchema

        self._log_startup(input_dict, output_dict, exec_properties)
        catalog = Catalog.load(artifact_utils.get_single_uri(input_dict["catalog"]))
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        depth = AdSchema.from_json(exec_properties["schema"]).category_depth
        pairs, previous = input_dict.get("pairs"), input_dict.get("previous")
        quality = measure(
            catalog,
            artifact_utils.get_split_uri([examples], "all"),
            depth,
            artifact_utils.get_split_uri(pairs, "train") if pairs else None,
            Catalog.load(artifact_utils.get_single_uri(previous)) if previous else None,
        )
        io_utils.write_string_file(
            os.path.join(blessing.uri, "quality.json"), json.dumps(quality, indent=2) + "\n"
        )
        verdict = write_verdict(
            blessing.uri,
            "SidEvaluator",
            checks(quality, len(catalog.ad_ids), catalog.codebook_size, exec_properties),
        )
        blessing.set_int_custom_property("blessed", int(verdict.blessed))
        outcome = "blessed" if verdict.blessed else f"NOT blessed: {verdict.refusal()}"
        set_summary(
            blessing,
            f"{outcome}; collisions {quality['collision_share']:.2%}, "
            f"entropy {quality['entropy_nats']:.4f} nats",
        )


class SidEvaluator(base_component.BaseComponent):
    """The gate on semantic-ID quality.

    Args:
        catalog: The codes to judge.
        examples: Transformed ads, for the category tree.
        schema: JSON of the AdSchema.
        limits: `max_collision_share`, `max_largest_group`, `min_entropy_share`, `min_coverage`.
        pairs: Swing pairs of training events, for the embedding hit rate; None leaves it out.
        previous: The catalogue to measure churn against; None leaves it out.
    """

    SPEC_CLASS = SidEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        catalog: types.BaseChannel,
        examples: types.BaseChannel,
        schema: str,
        limits: dict[str, Any],
        pairs: types.BaseChannel | None = None,
        previous: types.BaseChannel | None = None,
    ):
        super().__init__(
            SidEvaluatorSpec(
                catalog=catalog,
                examples=examples,
                pairs=pairs,
                previous=previous,
                schema=schema,
                blessing=types.Channel(type=SidBlessing),
                **limits,
            )
        )
