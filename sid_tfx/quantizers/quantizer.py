"""The interface of every quantizer."""

import abc
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops


class QuantizerOutput(NamedTuple):
    """What a quantizer makes of vectors `[B, D]`.

    Attributes:
        codes: int32 `[B, L]`, each in `[0, codebook_size)`.
        quantized: float `[B, D]`, what the codes stand for, with the gradient estimator applied.
        inputs: float `[B, L, W]`, the vector that level l was given to quantize. W is the size of
            code vectors, D at most.
        vectors: float `[B, L, W]`, the code vector chosen at level l; gradients reach the codebook.
        residual_norms: float `[B, L + 1]`, what is unexplained before level 1 and after each.
    """

    codes: Any
    quantized: Any
    inputs: Any
    vectors: Any
    residual_norms: Any


class Quantizer(keras.layers.Layer, abc.ABC):
    """Base of quantizers: L codes out of K each for a vector.

    A subclass implements `call`, `ranked_codes`, `decode` and `initialize`, and reports the codes
    of training batches through `observe`, which is what dead-code revival and health figures read.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
        seed: Seed of the initial codebooks.
        usage_momentum: Share of the running code counts that a batch keeps.

    Raises:
        ValueError: An argument is out of its range.
    """

    built: bool

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        seed: int = 0,
        usage_momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        least = {"levels": (levels, 1), "codebook_size": (codebook_size, 2), "dim": (dim, 1)}
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}.")
        if not 0.0 <= usage_momentum < 1.0:
            raise ValueError(f"usage_momentum must be in [0, 1), got {usage_momentum}.")
        self.levels = levels
        self.codebook_size = codebook_size
        self.dim = dim
        self.seed = seed
        self.usage_momentum = usage_momentum

    def build(self, input_shape: Any = None) -> None:
        """Creates the running statistics."""
        shape = (self.levels, self.codebook_size)
        self.usage = self.add_weight(name="usage", shape=shape, initializer="ones", trainable=False)
        self.initialized = self.add_weight(
            name="initialized", shape=(), initializer="zeros", trainable=False
        )
        self.built = True

    @property
    def input_dim(self) -> int:
        """Size of the vectors that `call` takes; D, unless a subclass reads something else."""
        return self.dim

    @property
    def fits_data(self) -> bool:
        """Whether `initialize` sets codebooks from data; without, there is nothing to refit."""
        return True

    def observe(self, codes: Any) -> None:
        """Adds a training batch's codes int `[B, L]` to the running use of each code.

        `usage` is the running ratio of a code's count to the count under even use: 1 is even, 0
        is dead.
        """
        keep = self.usage_momentum
        weight = (1 - keep) * self.codebook_size / ops.cast(ops.shape(codes)[0], self.usage.dtype)
        places = ops.reshape(self.places(codes), (-1,))
        # By segments: one-hot codes of a batch are as large as all costs together.
        hits = ops.segment_sum(
            weight * ops.ones_like(places, dtype=self.usage.dtype),
            places,
            num_segments=self.levels * self.codebook_size,
        )
        self.usage.assign(keep * self.usage + ops.reshape(hits, self.usage.shape))

    def places(self, codes: Any) -> Any:
        """Returns codes int32 `[B, L]` numbered through over the levels, in `[0, L * K)`."""
        return codes + self.codebook_size * ops.arange(self.levels, dtype="int32")

    def lookup(self, books: Any, codes: Any) -> Any:
        """Returns the vectors of codes, by one gather for all levels.

        Args:
            books: Code vectors, float `[L, K, W]`.
            codes: int32 `[B, L]`.

        Returns:
            float `[B, L, W]`.
        """
        return ops.take(ops.reshape(books, (-1, books.shape[-1])), self.places(codes), axis=0)

    @abc.abstractmethod
    def call(self, vectors: Any, training: bool | None = None) -> QuantizerOutput:
        """Quantizes vectors, float `[B, D]`."""

    @abc.abstractmethod
    def ranked_codes(self, vectors: Any, count: int) -> Any:
        """Returns the `count` best code tuples of each vector, int32 `[B, count, L]`.

        The first is what `call` assigns, the others follow by rising cost, all are different.
        """

    @abc.abstractmethod
    def decode(self, codes: Any) -> Any:
        """Returns the vectors, float `[B, D]`, that codes int `[B, L]` stand for."""

    @abc.abstractmethod
    def initialize(self, vectors: np.ndarray, seed: int = 0) -> None:
        """Sets the codebooks from data, float `[N, D]`."""

    def revive(self, threshold: float = 0.05, seed: int = 0) -> int:
        """Moves codes used less than `threshold` times even use; returns how many. 0 by default."""
        return 0

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "levels": self.levels,
            "codebook_size": self.codebook_size,
            "dim": self.dim,
            "seed": self.seed,
            "usage_momentum": self.usage_momentum,
        }
