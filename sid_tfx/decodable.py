"""What a generative recommender offers so that `SidDecoder` can decode it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


class Decodable(Protocol):
    """What `SidDecoder` asks of a generative recommender, whatever its architecture.

    A *user state* is what the model computes once per request: any nest of tensors `[B, ...]`, for
    a language model of codes the keys and values of the history.

    Attributes:
        level_sizes: Codes per level, the de-dup tokens last.
        ad_codes: int32 `[N + 1, levels + 1]`: full codes by row + 1.
        catalog_softmax: What is true if probabilities are among the codes that the catalogue has
            after a prefix, as those of `sid_log_probs` must then be.
        dense_weight: Scalar; weight of the dense score in hybrid mode.
        successors: A `SuccessorMemory`, hybrid mode's third source of ads; None for none.
        successor_weight: Scalar; weight of its score.
        variables: All Keras variables.
    """

    level_sizes: tuple[int, ...]
    ad_codes: Any
    catalog_softmax: Any
    dense_weight: Any
    successors: Any
    successor_weight: Any

    @property
    def variables(self) -> list[Any]:
        """See the class."""
        ...

    def user_state(self, histories: Any) -> Any:
        """User state of histories int32 `[B, T]` of row + 1, 0 for padding.

        Where the model reads a context, `[B, T, 1 + C]` has its ids after the row.
        """
        ...

    def next_log_probs(self, state: Any, prefix: Any) -> Any:
        """Log-probabilities `[B, W, level_sizes[l]]` of the code after `prefix` `[B, W, l]`.

        Where `catalog_softmax` is true the search normalizes them, so a constant per beam is free,
        and `W`, static elsewhere, is not at the last level.
        """
        ...

    def sid_log_probs(self, state: Any, rows: Any) -> Any:
        """Log-probabilities `[B, C]` of the full codes of ads int32 `[B, C]` of row + 1."""
        ...

    def item_vectors(self) -> Any:
        """Vectors `[N, D]` of all ads, in catalogue order."""
        ...

    def dense_query(self, state: Any) -> Any:
        """Queries `[B, D]` whose inner product with `item_vectors` is the dense score."""
        ...


@runtime_checkable
class Cached(Protocol):
    """A `Decodable` that need not read a beam's codes anew at every level.

    A model with these two methods is decoded through them instead of `next_log_probs`. The cache
    holds what belongs to a beam, its codes' keys and values for one; what all beams of a request
    share stays in the user state, where it isn't copied from beam to beam.
    """

    def initial_cache(self, state: Any) -> Any:
        """Cache before the first code: a nest of tensors `[B, 1, ...]`."""
        ...

    def cached_log_probs(self, state: Any, prefix: Any, cache: Any) -> tuple[Any, Any]:
        """Log-probabilities `[B, W, level_sizes[l]]` after `prefix`, and the new cache.

        Only the last code of `prefix` `[B, W, l]` is new to the cache `[B, W, ...]`, which is in
        the order of `prefix`. The new cache has that order too and may have grown.
        """
        ...
