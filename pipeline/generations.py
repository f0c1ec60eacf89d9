"""The generation that was pushed last: what a refresh builds on."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.types import artifact_utils, standard_artifacts

from components.artifacts import SidCatalog
from components.refusal import Refused
from sid_tfx.file_list import MANIFEST_FILE

PUSHED = "pushed"
TYPES: dict[str, type[types.Artifact]] = {
    PUSHED: standard_artifacts.PushedModel,
    "tokenizer": standard_artifacts.Model,
    "transform_graph": standard_artifacts.TransformGraph,
    "recommender": standard_artifacts.Model,
    "catalog": SidCatalog,
}
"""What the resolver takes and gives; the last four are inputs of Composer under these keys."""

_CURE = "run `python pipeline.py run` first"
_NOTHING = f"Nothing was pushed yet, so there is nothing to refresh; {_CURE}."
# From a push back to the run of Composer that made it, by the keys of the inputs between.
_LINEAGE = ("infra_blessing", "portable")
_MANIFESTS = {
    "tokenizer": os.path.join("Format-Serving", "metadata.json"),
    "recommender": os.path.join("Format-Serving", "metadata.json"),
    "catalog": "manifest.json",
}


class LastPushedGeneration(ResolverStrategy):
    """Resolves the tokenizer, transform graph, recommender and catalogue of the newest push.

    A generation that was taken back, by removing a version of it from the push directory, does not
    count, even where the other flavour's version is still there.
    The parts are those that Composer read, by the lineage in ML Metadata; what they are on disk
    is held against the fingerprints in the servable.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Picks one artifact for each key.

        Args:
            store: The metadata store.
            input_dict: Candidates under the keys of `TYPES`.

        Raises:
            Refused: Nothing was pushed, or a part is gone or not what was pushed.
        """
        pushed = newest_push(store, input_dict[PUSHED])
        parts = _inputs(store, _composed(store, pushed))
        resolved = {PUSHED: [pushed]}
        for key in TYPES.keys() - {PUSHED}:
            resolved[key] = [a for a in input_dict[key] if a.id == parts[key]]
            if not resolved[key]:
                raise Refused(f"The {key} of {_destination(pushed)} is gone; {_CURE}.")
        _check_fingerprints(pushed, {key: found[0].uri for key, found in resolved.items()})
        return resolved


def newest_push(store: mlmd.MetadataStore, pushes: list[types.Artifact]) -> types.Artifact:
    """Returns the newest push whose generation is still where it was pushed to, in every flavour.

    Args:
        store: The metadata store.
        pushes: Every PushedModel of the pipeline.

    Raises:
        Refused: There is none.
    """
    newest_first = sorted(
        (push for push in pushes if push.get_int_custom_property("pushed")),
        key=lambda artifact: artifact.id,
        reverse=True,
    )
    if not newest_first:
        raise Refused(_NOTHING)
    # A generation that is pushed again after another one stands or falls by its newer versions.
    for _, group in itertools.groupby(newest_first, lambda push: _composed(store, push)):
        flavours: dict[str, types.Artifact] = {}
        for push in group:
            flavours.setdefault(Path(_destination(push)).parent.parent.name, push)
        if all(fileio.exists(_destination(push)) for push in flavours.values()):
            return next(iter(flavours.values()))
    raise Refused(
        "Of every generation that was pushed, a version is gone, the newest of them "
        f"{_destination(newest_first[0])}; {_CURE}."
    )


def _composed(store: mlmd.MetadataStore, push: types.Artifact) -> int:
    """Id of the portable servable that Composer made with what was pushed: names a generation."""
    found = push.id
    for key in _LINEAGE:
        found = _inputs(store, found)[key]
    return found


def find_last_pushed(metadata_path: Path) -> dict[str, types.Artifact]:
    """Resolves the last pushed generation outside of a pipeline, before one is started.

    Args:
        metadata_path: SQLite file of the metadata store.

    Raises:
        Refused: See `LastPushedGeneration`.
    """
    if not metadata_path.exists():
        raise Refused(_NOTHING)
    connection = metadata.sqlite_metadata_connection_config(str(metadata_path))
    with metadata.Metadata(connection) as handle:
        store = handle.store
        candidates = {}
        for key, artifact_type in TYPES.items():
            found = store.get_artifacts_by_type(artifact_type.TYPE_NAME)
            candidates[key] = (
                artifact_utils.deserialize_artifacts(
                    store.get_artifact_type(artifact_type.TYPE_NAME), found
                )
                if found
                else []
            )
        resolved = LastPushedGeneration().resolve_artifacts(store, candidates)
    return {key: artifacts[0] for key, artifacts in resolved.items()}


def _destination(push: types.Artifact) -> str:
    return push.get_string_custom_property("pushed_destination")


def _inputs(store: mlmd.MetadataStore, artifact_id: int) -> dict[str, int]:
    """Ids of what an artifact was made from, by input key."""
    event = metadata_store_pb2.Event
    # A run that takes the artifact from the cache names it as its output, too; its inputs are the
    # same ones. A resolver that passes it on only has an INTERNAL_OUTPUT.
    makers = [
        e.execution_id
        for e in store.get_events_by_artifact_ids([artifact_id])
        if e.type == event.OUTPUT
    ]
    return {
        e.path.steps[0].key: e.artifact_id
        for e in store.get_events_by_execution_ids([max(makers)])
        if e.type == event.INPUT
    }


def _check_fingerprints(pushed: types.Artifact, uris: Mapping[str, str]) -> None:
    """Refuses where a part on disk is not the one in the servable."""
    served = _read(os.path.join(_destination(pushed), MANIFEST_FILE))["fingerprints"]
    for part, name in _MANIFESTS.items():
        path = os.path.join(uris[part], name)
        if not fileio.exists(path):
            raise Refused(f"The {part} of the last push is gone: no {path}; {_CURE}.")
        manifest = _read(path)
        found = (
            manifest["fingerprints"]["catalog"] if part == "catalog" else manifest["fingerprint"]
        )
        if found != served[part]:
            raise Refused(
                f"The last push has {part} {served[part]}, but {path} is of {found}; {_CURE}."
            )


def _read(path: str) -> dict[str, Any]:
    with fileio.open(path) as file:
        return json.load(file)
