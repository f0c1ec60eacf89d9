"""The file of a SavedModel's graph: whether it is whole, without TensorFlow.

TensorFlow's loader takes a damaged file's readable beginning for the whole graph.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError

# TensorBoard's copy of TensorFlow's message: it needs no import of TensorFlow, which takes seconds.
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from serving.wire_format import Malformed, fields

GRAPH_FILE = "saved_model.pb"
_META_GRAPHS = 2


def check_graph(file: Path) -> list[MetaGraphDef]:
    """Checks that a `saved_model.pb` is whole.

    Returns:
        What it holds.

    Raises:
        Malformed: it is not.
    """
    try:
        found = [
            MetaGraphDef.FromString(value)
            for number, value in fields(file.read_bytes())
            if number == _META_GRAPHS and isinstance(value, bytes)
        ]
    except (Malformed, DecodeError):
        found = []
    if not found:
        raise Malformed(f"{file} is truncated or damaged")
    return found
