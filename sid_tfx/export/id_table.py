"""Ad ids to catalogue rows and back, inside a graph."""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from sid_tfx.table_rows import gather_rows


class IdTable(tf.Module):
    """The ads of a catalogue by row, looked up both ways.

    The ids are a string variable, the way back is a hash table filled from an asset file when a
    server loads the model: neither becomes a constant of the graph, which may have 2 GB at most.

    Args:
        ad_ids: Strings `(N,)`, the ad of each row; unique, not empty, without line breaks.

    Raises:
        ValueError: An id is empty or has a line break, which the asset file cannot hold.

    Example:

    >>> table = IdTable(np.array(["a", "b"]))
    >>> table.rows(tf.constant(["b", "x", ""])).numpy().tolist()
    [1, -1, -1]
    """

    def __init__(self, ad_ids: np.ndarray) -> None:
        super().__init__(name="ads")
        ids = [str(ad_id) for ad_id in ad_ids]
        bad = next((i for i, ad_id in enumerate(ids) if not ad_id or set(ad_id) & {"\n", "\r"}), -1)
        if bad >= 0:
            raise ValueError(
                f"ad id {ids[bad]!r} of row {bad} is empty or has a line break; the table of ads "
                "holds one id a line. Drop the ad or clean its id."
            )
        self.size = len(ids)
        self.ad_ids = tf.Variable(ids, trainable=False, name="ad_ids")
        # The file must outlive this object's construction: saving copies it into the model.
        self._folder = tempfile.TemporaryDirectory(prefix="id_table_")
        file = pathlib.Path(self._folder.name, "ads.txt")
        file.write_text("".join(f"{ad_id}\n" for ad_id in ids), encoding="utf-8")
        self.asset = tf.saved_model.Asset(str(file))
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                self.asset.asset_path,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                vocab_size=self.size,
            ),
            default_value=-1,
        )

    def rows(self, ad_ids: tf.Tensor) -> tf.Tensor:
        """Catalogue rows of string ids, int32 of the same shape; -1 where an ad is unknown."""
        return tf.cast(self._table.lookup(ad_ids), tf.int32)

    def ids(self, rows: tf.Tensor) -> tf.Tensor:
        """String ids of int32 rows, same shape; `""` where a row is negative."""
        return tf.where(rows >= 0, gather_rows(self.ad_ids, tf.maximum(rows, 0)), "")
