"""Every figure of a catalogue's semantic IDs that its inputs allow."""

import os
from typing import Any

import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.records import read_features, read_pairs
from sid_tfx.features import AdSchema
from sid_tfx.metrics.churn import catalog_churn
from sid_tfx.metrics.hit_rate import embedding_hit_rate
from sid_tfx.metrics.sid_quality import category_v_measure, prefix_purity, sid_quality

HIT_RATE_K = 10
# Exact neighbours cost triggers * ads; a sample of so many has a standard error of about 1%.
_MAX_TRIGGERS = 2_000


def measure(
    catalog: SidCatalog,
    examples: str,
    category_depth: int,
    pairs: str | None = None,
    previous: SidCatalog | None = None,
) -> dict[str, Any]:
    """Measures a catalogue.

    Args:
        catalog: The codes to measure.
        examples: Folder of the transformed ads.
        category_depth: Depth of their category paths; 0 where ads have none.
        pairs: Folder of the Swing pairs of training events.
        previous: An earlier catalogue.

    Returns:
        What `sid_quality` returns. With categories: `v_measure` of each level against the finest
        one, `v_measure_by_depth` and `prefix_purity`. With pairs: `embedding_hit_rate@10`. With an
        earlier catalogue: `churn`, or `churn_skipped`, why there is none.
    """
    if category_depth:
        schema = AdSchema(category_depth=category_depth)
        ad_ids, features = read_features(os.path.join(examples, "*"), schema)
        path = features["category"][np.searchsorted(ad_ids, catalog.ad_ids)]
        deepest = np.maximum(np.count_nonzero(path, axis=1) - 1, 0)
        finest = path[np.arange(len(path)), deepest]
        quality = sid_quality(catalog.codes, catalog.codebook_size, finest)
        quality["v_measure_by_depth"] = category_v_measure(catalog.codes, path)
        quality["prefix_purity"] = prefix_purity(catalog.codes, finest)
    else:
        quality = sid_quality(catalog.codes, catalog.codebook_size)
    if pairs is not None:
        quality |= _hit_rate(catalog, pairs)
    if previous is not None:
        quality |= _churn(previous, catalog)
    return quality


def _hit_rate(catalog: SidCatalog, folder: str) -> dict[str, Any]:
    mined = read_pairs(os.path.join(folder, "*"))
    rows = catalog.rows(np.stack([mined.triggers, mined.targets], axis=1))
    rows = rows[(rows >= 0).all(axis=1)]
    if not len(rows):
        return {}
    rate = embedding_hit_rate(catalog.embeddings, rows, HIT_RATE_K, _MAX_TRIGGERS)
    return {f"embedding_hit_rate@{HIT_RATE_K}": rate}


def _churn(previous: SidCatalog, catalog: SidCatalog) -> dict[str, Any]:
    try:
        return {"churn": catalog_churn(previous, catalog)}
    except ValueError as error:
        return {"churn_skipped": str(error)}
