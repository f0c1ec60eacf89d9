"""SID embeddings: what the codes of an ad alone say of it."""

import numpy as np
from keras import ops

from sid_tfx.tokenizer import SidTokenizer

_BATCH = 4096


def sid_embeddings(tokenizer: SidTokenizer, codes: np.ndarray) -> np.ndarray:
    """Returns the vectors that semantic IDs stand for.

    They come from the codes that an ad has in the catalogue, which a collision may have changed
    from what the tokenizer gave first; ads with equal codes have equal vectors.

    Args:
        tokenizer: The trained tokenizer that the codes are of.
        codes: int `[N, L]`.

    Returns:
        float32 `[N, target_dim]`.

    Raises:
        ValueError: The codes have another number of levels than the tokenizer.

    Example:

    >>> sid_embeddings(tokenizer, catalog.codes).shape
    (2000, 64)
    """
    if codes.ndim != 2 or codes.shape[1] != tokenizer.levels:
        raise ValueError(
            f"codes must be [N, {tokenizer.levels}] for this tokenizer, got {codes.shape}"
        )
    distinct, place = np.unique(codes, axis=0, return_inverse=True)
    parts = [
        ops.convert_to_numpy(
            tokenizer.reconstruct(tokenizer.quantizer.decode(distinct[start : start + _BATCH]))
        )
        for start in range(0, len(distinct), _BATCH)
    ]
    return np.concatenate(parts).astype(np.float32)[place]
