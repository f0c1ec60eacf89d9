"""One loaded SavedModel.

Loaded through the session loader, as TF Serving's C++ server does: a model that loads here loads
there. A compiled session callable also costs about 50 us a call, where calling the signature of
`tf.saved_model.load` costs about 300 us and holds the interpreter lock for most of it.
Everything that depends on TensorFlow's private names lives in this module.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from serving.caller import Caller, Done
from serving.errors import ServingError, deadline_exceeded, invalid_argument
from serving.listed_files import Damaged, check_listed

DEFAULT_SIGNATURE = "serving_default"
_SCANN_LOCK = threading.Lock()


@dataclass(frozen=True)
class Port:
    """One named input or output of a signature.

    Args:
        tensor: name of the graph's tensor.
        dtype: its dtype.
        shape: its shape, -1 where any size fits, None where any rank does.
    """

    tensor: str
    dtype: tf.DType
    shape: tuple[int, ...] | None

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a value of this shape fits."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """A signature as requests use it: inputs and outputs by alias, sorted by alias."""

    method_name: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    @classmethod
    def from_proto(cls, proto: SignatureDef) -> Signature:
        """Reads a SignatureDef."""

        def ports(infos: Mapping) -> dict[str, Port]:
            return {alias: _port(infos[alias]) for alias in sorted(infos)}

        return cls(proto.method_name, ports(proto.inputs), ports(proto.outputs))


def _port(info: object) -> Port:
    shape = info.tensor_shape  # type: ignore[attr-defined]
    sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
    return Port(info.name, tf.dtypes.as_dtype(info.dtype), sizes)  # type: ignore[attr-defined]


class Runnable(Protocol):
    """What a request needs of a loaded model."""

    path: Path
    name: str
    version: int
    signatures: dict[str, Signature]
    meta_graph: MetaGraphDef

    def submit(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        caller: Caller,
        done: Done,
    ) -> None:
        """Runs a signature, now or later, see `Servable.submit`."""
        ...

    def close(self) -> None:
        """Frees it. No call may be running."""
        ...


class Servable:
    """A SavedModel in a session of its own. Thread-safe.

    Args:
        path: the version directory, which holds `saved_model.pb`.
        name: the model's name, as requests say it.
        version: the version number.
        intra_op_threads: threads inside one op; 0 lets TensorFlow choose. The first servable of
            a process decides, because sessions share the process's pool.
        inter_op_threads: size of the pool that runs independent ops of one request at once; 0
            runs them one after the other in the request's own thread. With one thread a request
            that is faster: half the latency and twice the throughput on small graphs. Single ops
            (matmul, ScaNN) use the intra-op pool either way.

    Raises:
        ServingError: NOT_FOUND when there is no SavedModel at `path`, DATA_LOSS when one of its
            files is damaged.
        Exception: whatever TensorFlow raises for a SavedModel that does not load.

    Example:

    >>> servable = Servable(Path("/models/sid_tfx/1"), "sid_tfx", 1)
    >>> [ad_ids] = servable.run("recommend", {"history": history}, ["ad_ids"])
    """

    def __init__(
        self,
        path: Path,
        name: str,
        version: int,
        *,
        intra_op_threads: int = 0,
        inter_op_threads: int = 0,
    ) -> None:
        if not (path / "saved_model.pb").is_file():
            raise ServingError(
                grpc.StatusCode.NOT_FOUND,
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
                ". Check that the directory exists and that you have the right permissions for "
                "accessing it.",
            )
        _check_whole(path)
        self.path, self.name, self.version = path, name, version
        loader = SavedModelLoader(str(path))
        self.meta_graph = loader.get_meta_graph_def_from_tags([tf.saved_model.SERVING])
        _load_custom_ops(self.meta_graph)
        self._session = tf.compat.v1.Session(
            graph=tf.Graph(),
            config=config_pb2.ConfigProto(
                allow_soft_placement=True,
                intra_op_parallelism_threads=intra_op_threads,
                inter_op_parallelism_threads=inter_op_threads,
            ),
        )
        try:
            loader.load(self._session, [tf.saved_model.SERVING])
        except BaseException:
            self._session.close()
            raise
        self.signatures = {
            key: Signature.from_proto(proto)
            for key, proto in self.meta_graph.signature_def.items()
            if not key.startswith("__saved_model")
        }
        # The graph lives in the session from here on; only the signatures are asked for again.
        self.meta_graph.ClearField("graph_def")
        self.meta_graph.ClearField("object_graph_def")
        self._run_options = config_pb2.RunOptions(
            inter_op_thread_pool=0 if inter_op_threads else -1
        )
        self._callables: dict[str, Callable] = {}
        self._lock = threading.Lock()

    def _callable(self, signature: str) -> Callable:
        found = self._callables.get(signature)
        if found is None:
            # Two first requests would otherwise both pay for compiling the graph.
            with self._lock:
                found = self._callables.get(signature)
                if found is None:
                    definition = self.signatures[signature]
                    options = config_pb2.CallableOptions(
                        feed=[port.tensor for port in definition.inputs.values()],
                        fetch=[port.tensor for port in definition.outputs.values()],
                        run_options=self._run_options,
                    )
                    found = self._session._make_callable_from_options(options)
                    self._callables[signature] = found
        return found

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """Runs a signature.

        All outputs are computed, whichever are wanted: every other subset would be a graph of its
        own to optimize, seconds on its first request and memory ever after.

        Args:
            signature: its key.
            inputs: a value for every input alias; strings as object arrays of bytes.
            outputs: output aliases wanted.
            deadline: `time.monotonic()` past which nobody waits for the answer; a run that has
                begun is not cut short.

        Returns:
            The outputs in the order asked for.

        Raises:
            ServingError: DEADLINE_EXCEEDED, and nothing was run.
            tf.errors.OpError: as TensorFlow raises it.
        """
        if deadline is not None and time.monotonic() > deadline:
            raise deadline_exceeded()
        definition = self.signatures[signature]
        call = self._callable(signature)
        try:
            values = call(*[inputs[alias] for alias in definition.inputs])
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes the value an op refused, and its Python layer fails on
            # one that is not text: the code is lost, but only a request brings such a value.
            quoted = bytes(error.object).decode("utf-8", "replace")
            raise invalid_argument(quoted) from error
        by_alias = dict(zip(definition.outputs, values, strict=True))
        return [by_alias[alias] for alias in outputs]

    def submit(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        caller: Caller,
        done: Done,
    ) -> None:
        """Runs a signature in this thread, as `run` does, and tells `done` what it returns.

        Raises:
            Exception: as `run`; `done` is told nothing then.
        """
        done(self.run(signature, inputs, outputs, caller.deadline))

    def close(self) -> None:
        """Frees the session. No call may be running."""
        self._callables.clear()
        self._session.close()


def _check_whole(path: Path) -> None:
    """The loader itself takes any vocabulary, and a damaged graph's readable beginning."""
    try:
        # Variables are gigabytes of a large catalogue, and TensorFlow checks those it restores.
        check_listed(path, is_read=lambda name: not name.startswith("variables"))
    except Damaged as error:
        raise ServingError(grpc.StatusCode.DATA_LOSS, str(error)) from error
    file = path / "saved_model.pb"
    content = file.read_bytes()
    try:
        whole = SavedModel().ParseFromString(content) == len(content)
    except DecodeError:
        whole = False
    if not whole:
        raise ServingError(grpc.StatusCode.DATA_LOSS, f"{file} is truncated or damaged")


def _load_custom_ops(meta_graph: MetaGraphDef) -> None:
    """Loads ScaNN's op library when the graph names its ops and the process lacks them."""
    nodes = list(meta_graph.graph_def.node)
    for function in meta_graph.graph_def.library.function:
        nodes.extend(function.node_def)
    missing = {node.op for node in nodes if op_def_registry.get(node.op) is None}
    if not any("Scann" in op for op in missing):
        return
    spec = importlib.util.find_spec("scann")
    if spec is None or spec.origin is None:
        raise ServingError(
            grpc.StatusCode.NOT_FOUND,
            f"Op type not registered {sorted(missing)!r}. The servable needs ScaNN: install scann "
            "built for this TensorFlow, or serve the portable servable.",
        )
    with _SCANN_LOCK:
        # The library alone: importing the package would pull in everything else it has.
        tf.load_op_library(str(Path(spec.origin).parent / "scann_ops" / "cc" / "_scann_ops.so"))
