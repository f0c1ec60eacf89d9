"""What a SavedModel's graph is made of."""

import os

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.io import gfile

_GRAPH_ONLY_OPS = frozenset({"NoOp", "Placeholder", "Const"})


def read_graphs(saved_model_dir: str) -> list[tf.compat.v1.GraphDef]:
    """Returns the graphs of a SavedModel, function libraries included; loads nothing."""
    model = saved_model_pb2.SavedModel()
    with gfile.GFile(os.path.join(saved_model_dir, "saved_model.pb"), "rb") as file:
        model.ParseFromString(file.read())
    return [meta_graph.graph_def for meta_graph in model.meta_graphs]


def ops(saved_model_dir: str) -> set[str]:
    """Returns the names of all operations in a SavedModel, its own functions aside."""
    names: set[str] = set()
    for graph in read_graphs(saved_model_dir):
        functions = {function.signature.name for function in graph.library.function}
        names.update(node.op for node in graph.node)
        for function in graph.library.function:
            names.update(node.op for node in function.node_def)
        names -= functions
    return names


def custom_ops(saved_model_dir: str) -> list[str]:
    """Returns the operations that stock TensorFlow and TF Serving do not have, sorted.

    Whatever op libraries this process has loaded, `tf.raw_ops` lists TensorFlow's own.

    Example:

    >>> custom_ops("portable")
    []
    >>> custom_ops("scann")
    ['Scann>ScannSearchBatched', 'Scann>TensorsToScann']
    """
    core = set(dir(tf.raw_ops)) | _GRAPH_ONLY_OPS
    return sorted(ops(saved_model_dir) - core)
