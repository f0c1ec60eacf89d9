"""The servable set: which ads of a servable may be returned, a file that is switched by itself."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.io import gfile

SERVABLE_SET_FILE = os.path.join("assets", "servable_set.bits")
"""Where a SavedModel holds its servable set."""

_FINGERPRINT_SIZE = 16


def write_servable_set(path: str, live: np.ndarray, fingerprint: str) -> None:
    """Writes a servable set: 16 characters that name the catalogue, then one bit an ad.

    Bit `row % 8` (the least significant is bit 0) of byte `row // 8` tells whether the ad of that
    catalogue row may be returned. Line `row` of a SavedModel's `assets/ads.txt` is its id.

    The file is replaced as a whole and never written in place, so other versions of a servable
    may hard-link the old one.

    Args:
        path: The file.
        live: bool `(N,)` by catalogue row: whether the ad may be returned.
        fingerprint: Of the catalogue, 16 ASCII characters: `SidCatalog.fingerprint`, which a
            SavedModel's `assets.extra/sid_tfx.json` has at `fingerprints.catalog`.

    Raises:
        ValueError: `live` is no vector of bools, or the fingerprint has another length.

    Example:

    >>> write_servable_set("1/assets/servable_set.bits", np.array([True, False]), "0" * 16)
    """
    flags = np.asarray(live)
    if flags.ndim != 1 or not len(flags) or flags.dtype != np.bool_:
        raise ValueError(
            f"live must be bool (N,), one flag per catalogue row, got {flags.dtype} {flags.shape}."
        )
    header = _header(fingerprint)
    partial = f"{path}.partial"
    with gfile.GFile(partial, "wb") as file:
        file.write(header + np.packbits(flags, bitorder="little").tobytes())
    gfile.rename(partial, path, overwrite=True)


def read_servable_set(path: str, ads: int) -> tuple[np.ndarray, str]:
    """Reads what `write_servable_set` wrote.

    Args:
        path: The file.
        ads: N, ads in the catalogue.

    Returns:
        bool `(N,)` by catalogue row and the catalogue's fingerprint.

    Raises:
        ValueError: The file is not of N ads.
    """
    with gfile.GFile(path, "rb") as file:
        data = file.read()
    if len(data) != file_size(ads):
        raise ValueError(
            f"{path} has {len(data)} bytes, a servable set of {ads} ads has {file_size(ads)}."
        )
    bits = np.frombuffer(data, np.uint8, offset=_FINGERPRINT_SIZE)
    flags = np.unpackbits(bits, count=ads, bitorder="little").astype(bool)
    return flags, data[:_FINGERPRINT_SIZE].decode("ascii")


def file_size(ads: int) -> int:
    """Bytes of the servable set of so many ads."""
    return _FINGERPRINT_SIZE + (ads + 7) // 8


def _header(fingerprint: str) -> bytes:
    header = fingerprint.encode("ascii", "replace")
    if len(header) != _FINGERPRINT_SIZE:
        raise ValueError(
            f"fingerprint must have {_FINGERPRINT_SIZE} characters, got {fingerprint!r}; take "
            "SidCatalog.fingerprint."
        )
    return header


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
        header = tf.strings.substr(data, 0, _FINGERPRINT_SIZE)
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
                tf.strings.substr(data, _FINGERPRINT_SIZE, file_size(self._ads)), tf.uint8
            )
        bits = tf.bitwise.right_shift(packed[:, None], tf.constant([*range(8)], tf.uint8))
        self._apply(tf.reshape(bits & 1, [-1])[: self._ads] > 0)
