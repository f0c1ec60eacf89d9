"""Dead-code revival by splitting busy codes."""

import numpy as np


def split_busy_codes(
    usage: np.ndarray, vectors: np.ndarray, threshold: float, rng: np.random.Generator
) -> np.ndarray:
    """Moves dead codes of one level beside busy ones, in place (LBG splitting).

    Args:
        usage: Use of each code relative to even use, float `[K]`; changed in place.
        vectors: Code vectors, float `[K, W]`; changed in place.
        threshold: A code below this share of even use is dead.
        rng: Source of the steps that part copies.

    Returns:
        int `[K]`: the code that each was split from, itself where it did not move.
    """
    sources = np.arange(len(usage))
    dead = np.flatnonzero(usage < threshold)
    # Dead codes may lie anywhere; the live ones say how wide the data is.
    spread = 0.1 * vectors[usage >= min(threshold, usage.max())].std(axis=0) + 1e-4
    for code in dead:
        source = int(np.argmax(usage))
        vectors[code] = vectors[source] + rng.normal(size=vectors.shape[1]) * spread
        usage[code] = usage[source] = usage[source] / 2
        sources[code] = sources[source]
    return sources
