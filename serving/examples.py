"""Raw ads as serialized tf.Examples, the form `encode_ads` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from tensorflow.core.example.example_pb2 import Example


def ad_example(ad: Mapping[str, Any]) -> bytes:
    """Serializes one raw ad.

    Text, ids and categories become bytes, numbers and vectors float, `timestamp` int64; None, NaN
    and an empty list are missing values, which is an absent feature.

    Args:
        ad: canonical raw columns: `title`, `category_path` (root first), `price` and so on.

    Raises:
        TypeError: a column holds a kind of value that has no place in a raw ad.
        ValueError: a vector holds NaN or infinity.

    Example:

    >>> ad_example({"ad_id": "a1", "category_path": ["Shoes", "Trail"], "price": 89})
    """
    example = Example()
    for name in sorted(ad):
        values = _values(name, ad[name])
        if not values:
            continue
        feature = example.features.feature[name]
        if name == "timestamp":
            feature.int64_list.value.extend(int(value) for value in values)
        elif isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def _values(name: str, value: Any) -> list[Any]:
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return []
    items = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if all(isinstance(item, str | bytes) for item in items):
        return [item.encode() if isinstance(item, str) else item for item in items]
    if name in ("ad_id", "user_id"):
        raise TypeError(f"{name} is {value!r}: ids are strings, send str({name})")
    if not all(isinstance(item, Real) and not isinstance(item, bool | np.bool_) for item in items):
        raise TypeError(
            f"column {name!r} holds {value!r}: a raw ad has strings, numbers, and lists of either"
        )
    if not all(math.isfinite(item) for item in items):
        raise ValueError(f"column {name!r} holds NaN or infinity: leave the column out instead")
    return items
