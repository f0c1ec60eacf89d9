"""A trained recommender on a catalogue that has changed: the same weights, new tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.recommender import SidRecommender


def refresh_recommender(
    model: SidRecommender,
    previous: SidCatalog,
    catalog: SidCatalog,
    successors: SuccessorTable | None = None,
) -> SidRecommender:
    """Carries a trained recommender over to a catalogue with new ads, or with fewer.

    An ad that both catalogues have keeps its codes, content and id vector, so a history of such
    ads gives the state it gave before. A new ad is known by its codes and content; its id vector,
    which only training could fill, is zero, the mean of its initial distribution. The successors'
    memory knows it once it is counted anew.

    Args:
        model: A trained recommender; it stays as it is.
        previous: The catalogue it was made from.
        catalog: The new one, made of `previous` by `SidCatalog.extend` and `SidCatalog.keep`.
        successors: What follows which ad of the new catalogue, counted anew: that takes no
            training. None carries over what the model remembers.

    Returns:
        A recommender for `catalog`.

    Raises:
        ValueError: `model` is not of `previous`, or a known ad has other codes in `catalog`.

    Example:

    >>> catalog = SidCatalog.build(["a", "b"], [[0, 1], [1, 1]], np.eye(2), codebook_size=2)
    >>> model = SidRecommender.for_catalog(catalog, hidden_size=16, num_heads=2, head_size=16)
    >>> grown = catalog.extend(["aa"], [[1, 0]], np.ones((1, 2)))
    >>> refresh_recommender(model, catalog, grown).num_ads
    3
    """
    codes = ops.convert_to_numpy(model.ad_codes)
    if not np.array_equal(codes[1:], previous.full_codes):
        raise ValueError(
            f"The recommender has {len(codes) - 1} ads and is not of the catalogue "
            f"{previous.fingerprint} with {len(previous)} ads; pass the one it was trained on."
        )
    rows = previous.rows(catalog.ad_ids)
    known = np.flatnonzero(rows >= 0)
    moved = (previous.full_codes[rows[known]] != catalog.full_codes[known]).any(axis=1)
    if moved.any():
        raise ValueError(
            f"{int(moved.sum())} known ads have other codes in the new catalogue, e.g. "
            f"{catalog.ad_ids[known][moved][0]!r}; make it with SidCatalog.extend."
        )
    if successors is None and model.successors is not None:
        successors = model.successors.table().moved(catalog.rows(previous.ad_ids), len(catalog))
    sizes = None if successors is None else successors.sizes
    refreshed = SidRecommender.from_config(
        {**model.get_config(), "num_ads": len(catalog), "successor_sizes": sizes}
    )
    refreshed.set_catalog(catalog)
    for new, old in zip(_trained(refreshed), _trained(model), strict=True):
        new.assign(old)
    if successors is not None and refreshed.successors is not None:
        refreshed.successors.set_table(successors)

    content = ops.convert_to_numpy(model.ad_content)
    # `set_catalog` scales by the new catalogue's RMS; the weights know the scale of training.
    scale = np.linalg.norm(content) / max(float(np.linalg.norm(previous.embeddings)), 1e-12)
    fresh = np.pad((catalog.embeddings * scale).astype(content.dtype), [(1, 0), (0, 0)])
    refreshed.ad_content.assign(_known_rows(fresh, content, known, rows))
    if model.id_vectors is not None:
        vectors = ops.convert_to_numpy(model.id_vectors)
        fresh = np.zeros((len(catalog) + 1, vectors.shape[1]), vectors.dtype)
        refreshed.id_vectors.assign(_known_rows(fresh, vectors, known, rows))
    return refreshed


def _trained(model: SidRecommender) -> list[Any]:
    """Its weights without the tables that are of its catalogue."""
    tables = [model.ad_codes, model.ad_content, model.id_vectors]
    for layer in (model.catalog_softmax, model.successors):
        tables += [] if layer is None else layer.weights
    known = {id(table) for table in tables}
    return [weight for weight in model.weights if id(weight) not in known]


def _known_rows(
    fresh: np.ndarray, old: np.ndarray, known: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Copies padding and known ads from the old table into the new one."""
    fresh[0] = old[0]
    fresh[known + 1] = old[rows[known] + 1]
    return fresh
