"""A softmax over the codes that the catalogue has, not over all that could be written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.cross_entropy import cross_entropy
from sid_tfx.embedding import look_up

# A code that no ad has after this prefix; finite, for the padding row has no codes at all.
_ABSENT = -1e9
_BITS = np.arange(7, -1, -1)


@keras.saving.register_keras_serializable(package="sid_tfx")
class CatalogSoftmax(keras.layers.Layer):
    """Restricts the next code to those that lead to an ad of the catalogue.

    A catalogue fills few of the semantic IDs that could be written: with 12,000 ads and three
    levels of 256 codes, the first two codes of an ad leave hardly a choice for the third. A plain
    softmax spends most of its loss on learning which codes exist; decoding under the trie knows
    that anyway. With this one the probabilities of all ads of the catalogue sum to one, in
    training as in decoding (`beam_search(renormalize=True)`), and a code without alternative
    costs nothing.

    For every prefix that occurs it keeps a bit per code: about 50 bytes an ad with 3 x 256 codes.

    Args:
        num_ads: Ads in the catalogue.
        sizes: Codes per level, the de-dup tokens last.

    Example:

    >>> softmax = CatalogSoftmax(num_ads=2, sizes=(4, 4))
    >>> softmax.set_codes(np.array([[0, 1], [0, 3]]))
    >>> (softmax.mask(1, np.zeros((1, 4)), np.array([1])) > -1).numpy().tolist()
    [[False, True, False, True]]
    """

    def __init__(self, num_ads: int, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_ads = num_ads
        self.sizes = tuple(int(size) for size in sizes)
        self.prefixes = self._table((num_ads + 1, len(self.sizes)), "int32", "prefixes")
        self.followers = []
        possible = 1
        for level, size in enumerate(self.sizes):
            shape = (min(num_ads, possible), -(-size // 8))
            self.followers.append(self._table(shape, "uint8", f"followers_{level}"))
            possible *= size
        self.built = True

    def _table(self, shape: tuple[int, int], dtype: str, name: str) -> Any:
        return self.add_weight(
            shape=shape, dtype=dtype, initializer="zeros", trainable=False, name=name
        )

    def set_codes(self, full_codes: np.ndarray) -> None:
        """Fills the tables.

        Args:
            full_codes: int `(num_ads, levels)`, the codes of all ads, in catalogue order.
        """
        codes = np.asarray(full_codes)
        prefixes = np.zeros((self.num_ads + 1, len(self.sizes)), np.int32)
        prefix = np.zeros(self.num_ads, np.int64)
        for level, (size, table) in enumerate(zip(self.sizes, self.followers, strict=True)):
            prefixes[1:, level] = prefix
            followed = np.zeros((table.shape[0], table.shape[1]), np.uint8)
            byte, bit = np.divmod(codes[:, level], 8)
            np.bitwise_or.at(followed, (prefix, byte), (128 >> bit).astype(np.uint8))
            table.assign(followed)
            # Numbered anew per level: below num_ads, however many codes there are.
            prefix = np.unique(prefix * size + codes[:, level], return_inverse=True)[1]
        self.prefixes.assign(prefixes)

    def mask(self, level: int, logits: Any, rows: Any) -> Any:
        """Makes the logits of codes hugely negative that no ad has after a prefix.

        Args:
            level: Which.
            logits: float `[..., sizes[level]]`.
            rows: int `[...]`, row + 1 of an ad with the prefix.
        """
        prefixes = look_up(self.prefixes, rows)[..., level]
        followed = ops.cast(look_up(self.followers[level], prefixes), "int32")
        bits = ops.bitwise_and(ops.right_shift(followed[..., None], _BITS.astype("int32")), 1)
        bits = ops.reshape(bits, (*ops.shape(followed)[:-1], 8 * followed.shape[-1]))
        return ops.where(bits[..., : self.sizes[level]] > 0, logits, _ABSENT)

    def losses(self, logits: Sequence[Any], codes: Any, rows: Any, smoothing: float) -> Any:
        """Cross-entropy `[P]` of the codes of ads, summed over levels.

        Args:
            logits: Per level, float `[P, sizes[level]]`.
            codes: int `[P, levels]` of the ads.
            rows: int `[P]`, row + 1 of the ads; the loss of a 0 means nothing.
            smoothing: Label smoothing, over the codes that the catalogue has.
        """
        total = 0.0
        for level, unmasked in enumerate(logits):
            masked = self.mask(level, unmasked, rows)
            loss = cross_entropy(masked, codes[:, level])
            if smoothing:
                there = ops.cast(masked > _ABSENT, unmasked.dtype)
                mean = ops.sum(unmasked * there, axis=-1) / ops.maximum(ops.sum(there, axis=-1), 1)
                even = ops.logsumexp(masked, axis=-1) - mean
                loss = (1 - smoothing) * loss + smoothing * even
            total = total + loss
        return total

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "num_ads": self.num_ads, "sizes": self.sizes}
