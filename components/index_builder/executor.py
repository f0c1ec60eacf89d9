"""Builds the index, measures it, writes its manifest and the gate's verdict."""

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.artifacts import set_summary
from components.refusal import Refused
from components.verdict import Check, write_verdict

if TYPE_CHECKING:
    from sid_tfx.retrieval import Selection

MANIFEST_FILE = "manifest.json"
SCANN_FOLDER = "scann"


class Executor(base_executor.BaseExecutor):
    """Builds brute force and ScaNN over the embeddings and keeps what was measured."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the index and blesses it, or says what is wrong with it."""
        from sid_tfx.catalog import SidCatalog
        from sid_tfx.retrieval import build_index, save_index

        self._log_startup(input_dict, output_dict, exec_properties)
        catalog = SidCatalog.load(artifact_utils.get_single_uri(input_dict["catalog"]))
        index = artifact_utils.get_single_instance(output_dict["index"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        kind, k = exec_properties["kind"], exec_properties["k"]
        try:
            chosen = build_index(
                catalog.embeddings,
                kind=kind,
                k=k,
                # An ad finds itself, and is then dropped from its own similar ads.
                max_k=max(k, exec_properties["max_k"]) + 1,
                recall_target=exec_properties["min_recall"],
                seed=exec_properties["seed"],
            )
        except ValueError as error:
            raise Refused(f"IndexBuilder: {error}") from error

        carried = carries_scann(chosen, kind, exec_properties["min_recall"])
        if carried and chosen.scann is not None:
            save_index(chosen.scann, os.path.join(index.uri, SCANN_FOLDER))
        manifest = _manifest(chosen, carried, k, exec_properties, catalog.fingerprint)
        io_utils.write_string_file(
            os.path.join(index.uri, MANIFEST_FILE), json.dumps(manifest, indent=2) + "\n"
        )
        index.set_string_custom_property("kind", chosen.kind)
        verdict = write_verdict(
            blessing.uri, "IndexBuilder", [_check(chosen, carried, k, exec_properties)]
        )
        blessing.set_int_custom_property("blessed", int(verdict.blessed))
        set_summary(
            index,
            chosen.reason if verdict.blessed else f"NOT blessed: {verdict.refusal()}",
        )


def carries_scann(chosen: "Selection", kind: str, min_recall: float) -> bool:
    """Whether the index artifact holds ScaNN, for the servable that has it.

    `"auto"` may find brute force faster and still carry ScaNN, but not one below the target;
    `"scann"` carries it in any case, and leaves it to the gate.
    """
    if chosen.approximate is None or kind == "brute_force":
        return False
    return kind == "scann" or chosen.approximate.recall >= min_recall


def _manifest(
    chosen: "Selection", carried: bool, k: int, limits: dict[str, Any], catalog: str
) -> dict[str, Any]:
    def figures(measurement: Any) -> dict[str, float]:
        return {f"recall@{k}": measurement.recall, "median_ms": measurement.median_ms}

    scann = None
    if chosen.scann is not None:
        scann = {
            **figures(chosen.approximate),
            "carried": carried,
            "parameters": chosen.scann.get_config(),
        }
    fingerprint = {"catalog": catalog, "limits": limits, "kind": chosen.kind, "carried": carried}
    return {
        "kind": chosen.kind,
        "reason": chosen.reason,
        "ads": chosen.brute_force.size,
        "similarity": chosen.brute_force.similarity,
        "max_k": limits["max_k"],
        "brute_force": figures(chosen.exact),
        "scann": scann,
        "fingerprint": hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[
            :16
        ],
        "fingerprints": {"catalog": catalog},
    }


def _check(chosen: "Selection", carried: bool, k: int, limits: dict[str, Any]) -> Check:
    measured = chosen.approximate if carried and chosen.approximate else chosen.exact
    name = "ScaNN" if carried else "brute force"
    return Check(
        name=f"recall@{k}",
        value=measured.recall,
        limit=limits["min_recall"],
        ok=measured.recall >= limits["min_recall"],
        sentence=(
            f"{name} finds {measured.recall:.3f} of the true {k} nearest ads, "
            f"the limit is at least {limits['min_recall']:g}"
        ),
    )
