"""Churn: how much the semantic IDs of the same ads changed from one catalogue to the next."""

from typing import Any

import numpy as np

from sid_tfx.catalog import SidCatalog


def churn(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Returns how much the codes of the same ads changed between two catalogues.

    Args:
        before: int `[N, L]`.
        after: int `[N, L]`, the same ads in the same order.

    Returns:
        `churn`, share of ads with any code changed, and `level_churn`, the share per level.

    Raises:
        ValueError: The shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"before and after must be of one shape, got {before.shape} and "
            f"{after.shape}; join both catalogues on the ad id first."
        )
    changed = before != after
    return {
        "churn": float(changed.any(axis=1).mean()),
        "level_churn": changed.mean(axis=0).tolist(),
    }


def catalog_churn(before: SidCatalog, after: SidCatalog) -> dict[str, Any]:
    """Returns the churn of the ads that two catalogues have in common, joined on the ad id.

    Args:
        before: The earlier catalogue.
        after: The later one.

    Returns:
        `churn` and `level_churn` as of `churn`, over the common ads; `common_ads`, `new_ads` that
        only `after` has and `gone_ads` that only `before` has.

    Raises:
        ValueError: No ad is in both, or they differ in levels.
    """
    rows = before.rows(after.ad_ids)
    common = rows >= 0
    if not common.any():
        raise ValueError(
            f"No ad is in both catalogues, e.g. {before.ad_ids[0]!r} and {after.ad_ids[0]!r}; "
            "compare catalogues of one ad inventory."
        )
    return {
        **churn(before.codes[rows[common]], after.codes[common]),
        "common_ads": int(common.sum()),
        "new_ads": int((~common).sum()),
        "gone_ads": len(before) - int(common.sum()),
    }
