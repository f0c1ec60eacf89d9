"""Checks that the parts belong together, builds the servables, saves them."""

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.artifacts import set_summary
from components.composer.generation import check_generation
from components.index_builder.executor import MANIFEST_FILE
from components.refusal import Refused
from components.verdict import require_blessed

if TYPE_CHECKING:
    from sid_tfx.catalog import SidCatalog
    from sid_tfx.datasets.records import Sequences

_MODEL_FOLDER = "Format-Serving"
_NAMES = {"scann": "ScaNN", "partitioned": "partitions", "brute_force": "brute force"}
_LIMITS = ("max_history", "max_k", "max_exclude", "beam_size")


class Executor(base_executor.BaseExecutor):
    """Makes both servables from one set of loaded models."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the portable and the ScaNN servable.

        Raises:
            Refused: The index was not blessed, the parts are of different generations, the
                servable's limits do not fit them, or no index for the dense candidates reaches its
                recall.
        """
        from components.composer.dense_candidates import dense_candidates
        from components.composer.preprocessing import TransformAds
        from sid_tfx.bundle import load_bundle
        from sid_tfx.catalog import SidCatalog
        from sid_tfx.datasets.records import read_sequences
        from sid_tfx.export import Servable, WireLimits, custom_ops, save
        from sid_tfx.retrieval import load_index

        self._log_startup(input_dict, output_dict, exec_properties)
        uri = {key: artifact_utils.get_single_uri(value) for key, value in input_dict.items()}
        require_blessed(uri["index_blessing"])
        with fileio.open(os.path.join(uri["index"], MANIFEST_FILE)) as file:
            manifest = json.load(file)
        catalog = SidCatalog.load(uri["catalog"])
        tokenizer, tokenizer_metadata = load_bundle(os.path.join(uri["tokenizer"], _MODEL_FOLDER))
        recommender, recommender_metadata = load_bundle(
            os.path.join(uri["recommender"], _MODEL_FOLDER)
        )
        check_generation(tokenizer_metadata, catalog.fingerprints, manifest, recommender_metadata)
        if exec_properties["max_k"] > manifest["max_k"]:
            raise Refused(
                f"Composer: max_k is {exec_properties['max_k']}, but the index was built for at "
                f"most {manifest['max_k']}; build it with a larger max_k."
            )
        try:
            limits = WireLimits(**{name: exec_properties[name] for name in _LIMITS})
        except ValueError as error:
            raise Refused(f"Composer: {error}") from error
        train = artifact_utils.get_split_uri(input_dict["sequences"], "train")
        sequences = read_sequences(os.path.join(train, "*"))
        parts = {
            "limits": limits,
            "recommender": recommender,
            "tokenizer": tokenizer,
            "preprocess": TransformAds(uri["transform_graph"]),
            "catalog": catalog,
            "popularity": popularity(sequences, catalog),
            "default_mode": exec_properties["default_mode"],
        }
        fingerprints = {
            "tokenizer": tokenizer_metadata["fingerprint"],
            "catalog": catalog.fingerprint,
            "index": manifest["fingerprint"],
            "recommender": recommender_metadata["fingerprint"],
        }
        dense = dense_candidates(
            exec_properties["dense_index"],
            recommender,
            catalog,
            sequences,
            limits,
            exec_properties["dense_min_recall"],
            exec_properties["seed"],
        )
        for flavour in ("portable", "scann"):
            index, sid_index = (
                load_index(
                    os.path.join(
                        uri["index"], manifest["spaces"][space]["flavours"][flavour]["path"]
                    )
                )
                for space in ("embedding", "sid_embedding")
            )
            model = artifact_utils.get_single_instance(output_dict[flavour])
            path = path_utils.serving_model_dir(model.uri)
            try:
                servable = Servable(
                    **parts, index=index, sid_index=sid_index, dense_index=dense[flavour].index
                )
            except ValueError as error:
                raise Refused(f"Composer: {error}") from error
            save(
                servable,
                path,
                {"fingerprints": fingerprints, "dense_candidates": dense[flavour].record},
            )
            own = custom_ops(path)
            if flavour == "portable" and own:
                raise Refused(
                    f"Composer: the portable servable has {len(own)} operations that stock TF "
                    f"Serving lacks: {', '.join(own)}."
                )
            retrieval = f"similar ads by {_NAMES[index.kind]}, {dense[flavour].summary}"
            set_summary(model, f"{len(catalog):,} ads, {retrieval}, {_size(path)}")


def popularity(sequences: "Sequences", catalog: "SidCatalog") -> np.ndarray:
    """Returns how many training events name each catalogue row."""
    histories = sequences.histories
    rows = catalog.rows(np.concatenate(histories)) if histories else np.zeros(0, np.int32)
    return np.bincount(rows[rows >= 0], minlength=len(catalog))


def _size(path: str) -> str:
    total = 0
    for folder, _, names in fileio.walk(path):
        total += sum(fileio.stat(os.path.join(str(folder), str(name))).length for name in names)
    return f"{total / 1e6:.1f} MB"
