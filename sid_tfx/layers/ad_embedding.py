"""What the recommender sees of an ad: its codes, its content vector, its id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class AdEmbedding(keras.layers.Layer):
    """Sum of one embedding per code, a projection of the content vector and an id embedding.

    Args:
        sizes: Codes per level, de-dup token included.
        hidden_size: Size of the result.
        seed: Integer.

    Call arguments:
        codes: int `[..., levels]`.
        content: float `[..., D]`.
        id_vectors: float `[..., hidden_size]` or None.

    Returns:
        float `[..., hidden_size]`.

    Example:

    >>> AdEmbedding((4, 2), 8)(np.zeros((5, 2), int), np.zeros((5, 3))).shape
    TensorShape([5, 8])
    """

    def __init__(
        self, sizes: Sequence[int], hidden_size: int, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = tuple(int(size) for size in sizes)
        self.hidden_size = hidden_size
        self.seed = seed
        make = SeededLayers(seed)
        self.tables = [
            make.embedding(size, hidden_size, name=f"level_{level}")
            for level, size in enumerate(self.sizes)
        ]
        self.project = make.dense(hidden_size, name="content")

    def build(
        self,
        codes_shape: tuple[int | None, ...],
        content_shape: tuple[int | None, ...],
        id_vectors_shape: tuple[int | None, ...] | None = None,
    ) -> None:
        """Makes the weights."""
        for table in self.tables:
            table.build(None)
        self.project.build(content_shape)
        self.built = True

    def call(self, codes: Any, content: Any, id_vectors: Any = None) -> Any:
        """See the class."""
        x = self.known(content, id_vectors)
        for level, table in enumerate(self.tables):
            x = x + table(codes[..., level])
        return x

    def known(self, content: Any, id_vectors: Any = None) -> Any:
        """What is known beside the codes: projected content `[..., D]` plus id vectors."""
        x = self.project(content)
        return x if id_vectors is None else x + id_vectors

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "hidden_size": self.hidden_size,
            "seed": self.seed,
        }
