"""Whether the last push of a servable still stands; what is in its way goes into the cache key."""

import copy
import os

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.base import base_driver
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.portable import base_driver as ir_base_driver
from tfx.orchestration.portable import data_types
from tfx.proto import pusher_pb2
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from sid_tfx.file_list import MANIFEST_FILE

REPLACES = "replaces"
"""Property of a PushedModel: the push of the same servable that no longer stood before it."""

# The last file that Pusher copies.
_LAST_FILE = "saved_model.pb"


class Driver(base_driver.BaseDriver, ir_base_driver.BaseDriver):
    """Lets the cache answer only with a push that stands.

    A push that doesn't is named in the output artifact, which TFX makes part of the cache key: the
    executor runs. A push that stands keeps the name that it was made under, so it is found again.
    """

    def __init__(self, metadata_handle: metadata.Metadata):
        base_driver.BaseDriver.__init__(self, metadata_handle)
        ir_base_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Says which push the one to be made replaces; nothing at the first."""
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(execution_info.exec_properties["push_destination"], destination)
        blessing = artifact_utils.get_single_instance(
            list(execution_info.input_dict["infra_blessing"])
        )
        with self._mlmd_connection as handle:
            push = _last_push(handle.store, blessing.id, destination.filesystem.base_directory)
        output = driver_output_pb2.DriverOutput()
        replaced = ""
        if push is not None:
            path = _destination(push)
            replaced = push.custom_properties[REPLACES].string_value if is_served(path) else path
        if replaced:
            [pushed] = execution_info.output_dict["pushed_model"]
            artifact = copy.deepcopy(pushed.mlmd_artifact)
            artifact.custom_properties[REPLACES].string_value = replaced
            output.output_artifacts["pushed_model"].artifacts.append(artifact)
        return output


def is_served(version: str) -> bool:
    """Whether a server of the folder serves this push.

    A newer version counts as the same push where it differs in its servable set alone: it has the
    same manifest, which lists all other files with their checksums. A refresh has another one.

    Args:
        version: Directory that was pushed to; the newest of its folder is the one served.
    """
    manifest = _manifest(version)
    if manifest is None:
        return False
    folder = os.path.dirname(version)
    # A bucket lists folders with a slash.
    names = [name.rstrip("/") for name in fileio.listdir(folder)]
    newest = max((n for n in names if n.isascii() and n.isdigit()), key=int)
    path = os.path.join(folder, newest)
    return fileio.exists(os.path.join(path, _LAST_FILE)) and _manifest(path) == manifest


def _last_push(
    store: mlmd.MetadataStore, blessing: int, folder: str
) -> metadata_store_pb2.Artifact | None:
    """The newest PushedModel made from a blessed servable in a folder of versions."""
    event = metadata_store_pb2.Event
    runs = [
        e.execution_id
        for e in store.get_events_by_artifact_ids([blessing])
        if e.type == event.INPUT
    ]
    made = [
        e.artifact_id for e in store.get_events_by_execution_ids(runs) if e.type == event.OUTPUT
    ]
    pushes = [
        artifact
        for artifact in store.get_artifacts_by_id(sorted(set(made)))
        if artifact.state == metadata_store_pb2.Artifact.LIVE
        and artifact.custom_properties["pushed"].int_value
        and os.path.dirname(_destination(artifact)) == folder
    ]
    return max(pushes, key=lambda artifact: artifact.id, default=None)


def _destination(push: metadata_store_pb2.Artifact) -> str:
    return push.custom_properties["pushed_destination"].string_value


def _manifest(version: str) -> str | None:
    path = os.path.join(version, MANIFEST_FILE)
    if not fileio.exists(path):
        return None
    with fileio.open(path) as file:
        return file.read()
