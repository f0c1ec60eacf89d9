"""Contrastive losses: over the category path (UniSID) and over co-engaged pairs (QuaSID)."""

import math
from typing import Any

import keras
from keras import ops

from sid_tfx.directions import to_unit
from sid_tfx.features import MISSING, UNKNOWN

MASKED = -1e9
"""A logit that counts for nothing."""


def check_temperature(temperature: float) -> float:
    """Returns `temperature`.

    Raises:
        ValueError: It is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    return temperature


def granularity_labels(
    category: Any, levels: int, advertiser: Any | None = None, ad_row: Any | None = None
) -> Any:
    """Returns what two rows must share to be positives at each level, coarse to fine.

    Level l looks at the category prefix of depth ceil(l * depth / levels). Where an ad's path is
    shorter, its last known prefix stands in. The last level also asks for the same advertiser;
    where an ad has no category or no advertiser, only a second view of that ad is its positive
    there. An id that the vocabulary doesn't know is missing too: two unknown ones needn't be equal.

    Args:
        category: Prefix ids int `[B, depth]`, 0 where the path is shorter, 1 where unknown.
        levels: L.
        advertiser: Advertiser ids int `[B]`, 0 where missing, 1 where unknown; None where ads have
            none.
        ad_row: int `[B]`, which ad a row is; None where no ad has a second view. Then an ad
            without advertiser has no positive at the last level, unless no ad has an advertiser.

    Returns:
        Labels int32 `[B, levels, 2]`. Two rows are positives at a level when both numbers are equal
        and none is 0.
    """
    depth = category.shape[1]
    filled, last = [], ops.zeros_like(category[:, 0])
    for position in range(depth):
        prefix = category[:, position]
        last = ops.where(ops.less_equal(prefix, UNKNOWN), last, prefix)
        filled.append(last)
    prefixes = [
        ops.cast(filled[math.ceil((level + 1) * depth / levels) - 1], "int32")
        for level in range(levels)
    ]
    seconds = [ops.ones_like(prefixes[0])] * levels
    if advertiser is not None:
        advertiser = ops.cast(advertiser, "int32")
        seconds[-1] = ops.where(ops.less_equal(advertiser, UNKNOWN), MISSING, advertiser)
    if ad_row is not None:
        # Negative, so that no ad's own number is a category's or an advertiser's.
        own = -1 - ops.cast(ad_row, "int32")
        known = ops.not_equal(prefixes[-1], 0)
        if advertiser is None:
            known = ops.zeros_like(known)
        else:
            known = ops.logical_and(known, ops.not_equal(seconds[-1], 0))
        prefixes[-1] = ops.where(known, prefixes[-1], own)
        seconds[-1] = ops.where(known, seconds[-1], own)
    return ops.stack([ops.stack(prefixes, axis=1), ops.stack(seconds, axis=1)], axis=-1)


@keras.saving.register_keras_serializable(package="sid_tfx")
class MultiGranularityContrastive(keras.layers.Layer):
    """L_sid of UniSID: at each level, ads of the same branch of the category tree attract.

    For an ad i and a level l with positives P and all other rows A,
    -1/|P| sum_p log(exp(s_ip / tau) / sum_a exp(s_ia / tau)), with s the cosine similarity of
    level vectors; averaged over the ads that have a positive, then over levels.

    Args:
        temperature: tau.

    Raises:
        ValueError: `temperature` is not above 0.

    Reference:
        UniSID, arXiv 2602.10445, multi-granularity contrastive loss.
    """

    def __init__(self, temperature: float = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = check_temperature(temperature)

    def call(self, level_vectors: Any, labels: Any) -> Any:
        """Returns a scalar, 0 when no ad has a positive.

        Args:
            level_vectors: float `[B, L, D]`.
            labels: int `[B, L, C]`; rows with equal labels, none of them 0, are positives.
        """
        unit = to_unit(ops.transpose(level_vectors, (1, 0, 2)))
        labels = ops.transpose(labels, (1, 2, 0))
        itself = ops.eye(ops.shape(unit)[1], dtype="bool")
        positive = ops.logical_and(
            ops.all(ops.not_equal(labels, 0), axis=1)[:, :, None], ops.logical_not(itself)
        )
        for number in range(labels.shape[1]):
            part = labels[:, number]
            positive = ops.logical_and(positive, ops.equal(part[:, :, None], part[:, None]))
        positive = ops.cast(positive, unit.dtype)
        logits = ops.matmul(unit, ops.transpose(unit, (0, 2, 1))) / self.temperature
        normalizer = ops.logsumexp(ops.where(itself, MASKED, logits), axis=-1)
        # log-softmax is linear in the positives' logits, and their sum is a product with the sum of
        # the positives: nothing more of size [L, B, B] is needed, forward or backward.
        count = ops.sum(positive, axis=-1)
        attraction = ops.sum(unit * ops.matmul(positive, unit), axis=-1) / self.temperature
        attraction = attraction / ops.maximum(count, 1.0)
        has_positive = ops.cast(ops.greater(count, 0), unit.dtype)
        per_level = ops.sum(has_positive * (normalizer - attraction), axis=-1)
        return ops.mean(per_level / ops.maximum(ops.sum(has_positive, axis=-1), 1.0))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="sid_tfx")
class DualTowerContrastive(keras.layers.Layer):
    """L_cl of QuaSID: a trigger ad finds the ad it is co-engaged with among the batch's targets.

    -1/B sum_m log(exp(S_mm) / sum_n M_mn exp(S_mn)), S = cosine / tau, from trigger to target only.
    M_mn is 0 when n is another pair of the same trigger ad, whose target is no negative.

    Args:
        temperature: tau.

    Raises:
        ValueError: `temperature` is not above 0.

    Reference:
        QuaSID, arXiv 2603.00632, dual-tower contrastive loss.
    """

    def __init__(self, temperature: float = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = check_temperature(temperature)

    def call(self, vectors: Any, ad_row: Any) -> Any:
        """Returns a scalar.

        Args:
            vectors: float `[2B, D]`; row i pairs with row i + B.
            ad_row: int `[2B]`, which ad a row is.
        """
        unit = to_unit(vectors)
        pairs = ops.shape(unit)[0] // 2
        logits = ops.matmul(unit[:pairs], ops.transpose(unit[pairs:])) / self.temperature
        trigger = ad_row[:pairs]
        same_trigger = ops.equal(trigger[:, None], trigger[None])
        other = ops.logical_not(ops.eye(pairs, dtype="bool"))
        logits = ops.where(ops.logical_and(same_trigger, other), MASKED, logits)
        return ops.mean(ops.logsumexp(logits, axis=-1) - ops.diagonal(logits))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "temperature": self.temperature}
