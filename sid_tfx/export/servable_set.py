"""The servable set: which ads of a servable may be returned, a file that is switched by itself."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sid_tfx.servable_set_file import (
    FINGERPRINT_SIZE,
    SERVABLE_SET_FILE,
    file_size,
    write_servable_set,
)


class ServableSet(tf.saved_model.experimental.TrackableResource):
    """Applies a servable's set when a server loads it, in the graph: any loader runs it.

    A SavedModel's loader restores the variables and then initializes the resources, hash tables
    for one. This resource holds nothing of its own: to be initialized is to read the file and to
    set the variables that depend on it. So a version of a servable with another file, all else
    hard-linked, serves another set. A file of another catalogue or a damaged one fails the load.

    Args:
        ads: N, ads in the catalogue.
        fingerprint: Of the catalogue.
        apply: Takes bool `[N]` by catalogue row and assigns variables; runs in a graph.

    Attributes:
        asset: The file; the module that holds this resource has to track it.

    Raises:
        ValueError: The fingerprint has not 16 characters.

    Example:

    >>> servable_set = ServableSet(len(catalog), catalog.fingerprint, servable.set_live)
    """

    def __init__(self, ads: int, fingerprint: str, apply: Callable[[tf.Tensor], None]) -> None:
        super().__init__()
        self._ads = ads
        self._fingerprint = fingerprint
        self._apply = apply
        # The file must outlive this object's construction: saving copies it into the model.
        self._folder = tempfile.TemporaryDirectory(prefix="servable_set_")
        file = pathlib.Path(self._folder.name, os.path.basename(SERVABLE_SET_FILE))
        write_servable_set(str(file), np.ones(ads, bool), fingerprint)
        self.asset = tf.saved_model.Asset(str(file))

    def write(self, live: np.ndarray) -> None:
        """Sets what is saved: bool `(N,)` by catalogue row."""
        write_servable_set(self.asset.asset_path.numpy().decode(), live, self._fingerprint)

    def _create_resource(self) -> tf.Tensor:
        # A handle is asked for, though there is nothing to hold.
        return tf.raw_ops.VarHandleOp(dtype=tf.bool, shape=[], shared_name="servable_set")

    def _initialize(self) -> None:
        data = tf.io.read_file(self.asset.asset_path)
        header = tf.strings.substr(data, 0, FINGERPRINT_SIZE)
        checks = [
            tf.debugging.assert_equal(
                tf.strings.length(data),
                file_size(self._ads),
                message=f"{SERVABLE_SET_FILE} has not the size of {self._ads} ads; write it anew",
            ),
            tf.debugging.assert_equal(
                header,
                self._fingerprint,
                message=f"{SERVABLE_SET_FILE} is of another catalogue; write it for this one",
            ),
        ]
        with tf.control_dependencies([check for check in checks if check is not None]):
            packed = tf.io.decode_raw(
                tf.strings.substr(data, FINGERPRINT_SIZE, file_size(self._ads)), tf.uint8
            )
        bits = tf.bitwise.right_shift(packed[:, None], tf.constant([*range(8)], tf.uint8))
        self._apply(tf.reshape(bits & 1, [-1])[: self._ads] > 0)
