"""Builds the indices, measures them, writes their manifest and the gate's verdict."""

import json
import os
from typing import Any

import numpy as np
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components.artifacts import set_summary
from components.refusal import Refused
from components.verdict import write_verdict

MANIFEST_FILE = "manifest.json"
CURVE_FILE = "curve.png"
_MODEL_FOLDER = "Format-Serving"


class Executor(base_executor.BaseExecutor):
    """Chooses an index for each kind of vectors and flavour, and keeps what was measured."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the indices and blesses them, or says what is wrong with them.

        Raises:
            Refused: The tokenizer is not the catalogue's, or the kind of index that was asked for
                cannot be built over so few ads.
        """
        from components.index_builder import report
        from components.index_builder.curve import draw
        from sid_tfx.bundle import load_bundle
        from sid_tfx.catalog import SidCatalog
        from sid_tfx.retrieval import build_index, save_index
        from sid_tfx.retrieval.sid_vectors import sid_embeddings

        self._log_startup(input_dict, output_dict, exec_properties)
        catalog = SidCatalog.load(artifact_utils.get_single_uri(input_dict["catalog"]))
        tokenizer_uri = artifact_utils.get_single_uri(input_dict["tokenizer"])
        tokenizer, metadata = load_bundle(os.path.join(tokenizer_uri, _MODEL_FOLDER))
        _check_tokenizer(catalog.fingerprints.get("tokenizer"), metadata["fingerprint"])
        index = artifact_utils.get_single_instance(output_dict["index"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        k, min_recall = exec_properties["k"], exec_properties["min_recall"]
        vectors: dict[str, np.ndarray] = {
            "embedding": catalog.embeddings,
            "sid_embedding": sid_embeddings(tokenizer, catalog.codes),
        }
        spaces, checks = {}, []
        for space in report.SPACES:
            try:
                selection = build_index(
                    vectors[space],
                    kind=exec_properties["kind"],
                    k=k,
                    # An ad finds itself, and is then dropped from its own similar ads.
                    max_k=max(k, exec_properties["max_k"]) + 1,
                    recall_target=min_recall,
                    seed=exec_properties["seed"],
                )
            except ValueError as error:
                raise Refused(f"IndexBuilder: {error}") from error
            spaces[space] = report.space_record(space, selection)
            for flavour, choice in selection.choices.items():
                path = os.path.join(index.uri, spaces[space]["flavours"][flavour]["path"])
                if not fileio.exists(path):
                    save_index(choice.index, path)
                checks.append(report.check(space, flavour, choice, k, min_recall))
        with fileio.open(os.path.join(index.uri, CURVE_FILE), "wb") as file:
            file.write(draw(spaces, k, min_recall))
        manifest = {
            "ads": len(catalog),
            "k": k,
            "max_k": exec_properties["max_k"],
            "spaces": spaces,
            "fingerprint": report.fingerprint(catalog.fingerprints, exec_properties, spaces),
            "fingerprints": {
                "catalog": catalog.fingerprint,
                "tokenizer": metadata["fingerprint"],
            },
        }
        # Written last: a directory without it is an index that was never finished.
        io_utils.write_string_file(
            os.path.join(index.uri, MANIFEST_FILE), json.dumps(manifest, indent=2) + "\n"
        )
        verdict = write_verdict(blessing.uri, "IndexBuilder", checks)
        blessing.set_int_custom_property("blessed", int(verdict.blessed))
        chosen = spaces["embedding"]["flavours"]["scann"]
        index.set_string_custom_property("kind", chosen["kind"])
        set_summary(
            index,
            chosen["reason"] if verdict.blessed else f"NOT blessed: {verdict.refusal()}",
        )


def _check_tokenizer(named: str | None, given: str) -> None:
    if named != given:
        raise Refused(
            f"IndexBuilder: the catalogue was made by tokenizer {named}, but the tokenizer given "
            f"is {given}; codes of two tokenizers mean different things."
        )
