"""Embedding hit rate: are ads that the same users engage with near each other? (FORGE)"""

import numpy as np

# Scores held at once; bounds memory to about 100 MiB.
_CHUNK_SCORES = 1 << 23


def embedding_hit_rate(
    embeddings: np.ndarray,
    pairs: np.ndarray,
    k: int = 10,
    max_triggers: int | None = None,
    seed: int = 0,
) -> float:
    """Returns the share of co-engaged pairs whose target is among the k nearest of its trigger.

    Nearest by cosine, exact, over all ads but the trigger. Where the target ties with others at
    the k-th place, as ads of one semantic ID do in `sid_embedding`, it counts with the share of
    them that fits, so that one vector for all ads scores no better than chance.

    Args:
        embeddings: float `[N, D]`; a zero vector has cosine 0 with all.
        pairs: int `[P, 2]`, rows of trigger and target, such as Swing pairs.
        k: Neighbours of a trigger.
        max_triggers: Measure a random sample of so many triggers; None for all. The cost is
            triggers * N * D.
        seed: Seed of the sample.

    Returns:
        The share, in [0, 1].

    Raises:
        ValueError: An argument is out of range, of a wrong shape, or not finite.

    Example:

    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> embedding_hit_rate(vectors, np.array([[0, 1], [0, 2]]), k=1)
    0.5

    Reference:
        FORGE: embedding hit rate as a metric of semantic IDs that trains no recommender.
    """
    embeddings = np.asarray(embeddings, np.float32)
    pairs = np.asarray(pairs)
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings must be finite [N, D], got {embeddings.shape}.")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"pairs must be [P > 0, 2], got {pairs.shape}.")
    if pairs.min() < 0 or pairs.max() >= len(embeddings):
        raise ValueError(
            f"pairs name rows {pairs.min()} to {pairs.max()}; there are {len(embeddings)} ads."
        )
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError("pairs must be of two ads each; an ad is no neighbour of its own.")
    for name, value in {"k": k, "max_triggers": max_triggers}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    triggers = np.unique(pairs[:, 0])
    if max_triggers is not None and len(triggers) > max_triggers:
        triggers = np.random.default_rng(seed).choice(triggers, max_triggers, replace=False)
        pairs = pairs[np.isin(pairs[:, 0], triggers)]
    # Equal vectors are scored once: a product may round copies differently and break their tie.
    vectors, group = np.unique(embeddings, axis=0, return_inverse=True)
    group = group.reshape(-1)
    counts = np.bincount(group).astype(np.float32)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    pairs = group[pairs][np.argsort(group[pairs[:, 0]], kind="stable")]
    sources, starts = np.unique(pairs[:, 0], return_index=True)
    edges = np.append(starts, len(pairs))
    hits, step = 0.0, max(1, _CHUNK_SCORES // len(unit))
    for first in range(0, len(sources), step):
        own = sources[first : first + step]
        scores = unit[own] @ unit.T
        cutoff, share = _last_place(scores, own, counts, k)
        last = min(first + step, len(sources))
        part = pairs[edges[first] : edges[last]]
        row = np.searchsorted(own, part[:, 0])
        score = scores[row, part[:, 1]]
        hits += float((score > cutoff[row]).sum() + share[row][score == cutoff[row]].sum())
    return hits / len(pairs)


def _last_place(
    scores: np.ndarray, own: np.ndarray, counts: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's k-th best score, and which share of the ads that have it is within k."""
    rows = np.arange(len(own))
    kept = min(k + 1, scores.shape[1])
    best = np.argpartition(scores, -kept, axis=1)[:, -kept:]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
    # The trigger is one ad of its own group and no neighbour of itself.
    ads = np.cumsum(counts[best] - (best == own[:, None]), axis=1)
    place = np.where(ads[:, -1] >= k, np.argmax(ads >= k, axis=1), kept - 1)
    cutoff = scores[rows, best[rows, place]]
    above = (scores > cutoff[:, None]) @ counts - (scores[rows, own] > cutoff)
    ties = (scores == cutoff[:, None]) @ counts - (scores[rows, own] == cutoff)
    return cutoff, np.clip((k - above) / np.maximum(ties, 1.0), 0.0, 1.0)
