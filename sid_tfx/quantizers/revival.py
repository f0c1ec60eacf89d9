"""Dead-code revival by splitting busy codes."""

import numpy as np


def split_busy_codes(
    usage: np.ndarray,
    books: np.ndarray,
    offsets: np.ndarray,
    widths: list[int],
    threshold: float,
    seed: int,
) -> None:
    """Moves dead codes beside busy ones of their level, in place (LBG splitting).

    Args:
        usage: Use of each code relative to even use, float `[L, K]`.
        books: Code vectors, float `[L, K, W]`.
        offsets: Offsets on the costs of codes, float `[L, K]`; a copy takes that of its source.
        widths: Size of a code vector at each level.
        threshold: A code below this share of even use is dead.
        seed: Seed of the steps that part copies.
    """
    rng = np.random.default_rng(seed)
    for level, width in enumerate(widths):
        sources = _split_level(usage[level], books[level, :, :width], threshold, rng)
        offsets[level] = offsets[level, sources]


def _split_level(
    usage: np.ndarray, vectors: np.ndarray, threshold: float, rng: np.random.Generator
) -> np.ndarray:
    """Splits codes of one level, in place; returns the code that each came from, int `[K]`."""
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
