"""SASRec: the next ad by its id, with self-attention over the history."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.cross_entropy import table_cross_entropy
from sid_tfx.embedding import look_up
from sid_tfx.layers import CausalBlock
from sid_tfx.layers.history import last_state, next_rows, pack_history, read_histories
from sid_tfx.precision import check_float32
from sid_tfx.sequence_model import SequenceModel, takes_whole_histories
from sid_tfx.transformer import SeededLayers

_BATCH = 256


@keras.saving.register_keras_serializable(package="sid_tfx")
class SasRec(SequenceModel):
    """A causal transformer over ad ids that scores every ad by an inner product with its vector.

    The ad vectors are input and output in one, as published. Unlike the paper, which draws one
    negative ad per position, training takes the cross-entropy over all ads: it gives a much
    stronger baseline (Klenitskiy and Vasilev, arXiv 2309.07602).

    Histories are int32 `[B, T]` of catalogue row + 1, oldest first; 0 is padding. Train it with
    `SequenceBatches`; the loss is taken at every position.

    Args:
        num_ads: Ads in the catalogue.
        hidden_size: Size of states and ad vectors.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_size: Width of the blocks' MLPs.
        max_history: Newest ads of a history that are read.
        dropout: Rate on the input and in the blocks.
        seed: Integer; fixes initial weights and dropout.
        **kwargs: As of `keras.Model`. Any dtype policy but float32 is refused.

    Example:

    >>> model = SasRec(num_ads=5, hidden_size=8, num_heads=2)
    >>> model.compile(keras.optimizers.Adam(1e-3))
    >>> history = model.fit(np.array([[1, 2, 3, 0], [2, 3, 1, 2]]), verbose=0)
    >>> model.recommend(np.array([[1, 2]]), k=3).shape
    (1, 3)

    Reference:
        Kang and McAuley, Self-Attentive Sequential Recommendation, arXiv 1808.09781.
    """

    def __init__(
        self,
        num_ads: int,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        mlp_size: int = 256,
        max_history: int = 50,
        dropout: float = 0.2,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_float32(self)
        self._config: dict[str, Any] = {
            "num_ads": num_ads,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_size": mlp_size,
            "max_history": max_history,
            "dropout": dropout,
            "seed": seed,
        }
        for name, value in self._config.items():
            if name not in ("dropout", "seed") and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}.")
        self.num_ads = num_ads
        self.hidden_size = hidden_size
        self.max_history = max_history
        make = SeededLayers(seed)

        def table(rows: int, name: str) -> Any:
            initializer = keras.initializers.RandomNormal(stddev=0.02, seed=make.seed())
            return self.add_weight(shape=(rows, hidden_size), initializer=initializer, name=name)

        # Row 0 is padding, so that histories index the table directly.
        self.ad_vectors = table(num_ads + 1, "ad_vectors")
        self.positions = table(max_history, "positions")
        self.drop = make.dropout(dropout)
        self.blocks = [
            CausalBlock(
                hidden_size,
                num_heads,
                mlp_size,
                # One bias for all distances is none: order enters by the position vectors.
                max_length=1,
                dropout=dropout,
                seed=make.seed(),
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.output_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="output_norm")
        self.build((None, None))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes all weights; the constructor calls it, for every size is known there."""
        state = (None, None, self.hidden_size)
        for layer in (*self.blocks, self.output_norm):
            layer.build(state)
        self.built = True

    def call(self, rows: Any, training: bool = False) -> Any:
        """States `[B, T, hidden_size]`, one per ad of the history moved to the left.

        Args:
            rows: int32 `[B, T]`; longer ones than `max_history` are cut to the newest. Or a batch
                of `SequenceBatches`.
            training: Whether to drop.
        """
        rows, segments = read_histories(rows, self.max_history)
        # The paper's scaling: ad vectors start small beside the position vectors otherwise.
        x = look_up(self.ad_vectors, rows) * self.hidden_size**0.5
        place = ops.arange(ops.shape(rows)[1])
        if segments is not None:
            # Of the places in a segment the first, which argmax finds, is the history's place 0.
            same = ops.cast(segments[:, :, None] == segments[:, None, :], "int32")
            place = place - ops.cast(ops.argmax(same, axis=-1), place.dtype)
        place = ops.minimum(place, self.max_history - 1)
        x = self.drop(x + look_up(self.positions, place), training=training)
        for block in self.blocks:
            x = block(x, training=training, segments=segments)
        return self.output_norm(x)

    def scores(self, rows: Any) -> Any:
        """Scores `[B, N]` of all ads after histories `[B, T]`."""
        state = last_state(self(rows), pack_history(rows, self.max_history))
        return ops.matmul(state, ops.transpose(self.ad_vectors[1:]))

    def history_loss(self, x: Any, y: Any, y_pred: Any, training: bool = True) -> Any:
        """Mean cross-entropy over all ads, at every position that has a next ad.

        Args:
            x: The histories, as `call` takes them.
            y: None; each ad of a history is the target of the ads before it.
            y_pred: The states that `call` returned.
            training: Ignored; `call` has dropped.

        Raises:
            ValueError: There are targets.
        """
        if y is not None:
            raise takes_whole_histories(type(self).__name__)
        targets = ops.reshape(next_rows(*read_histories(x, self.max_history)), (-1,))
        states = ops.reshape(y_pred[:, :-1], (-1, self.hidden_size))
        losses = table_cross_entropy(states, self.ad_vectors, targets)
        mask = ops.cast(targets > 0, losses.dtype)
        return ops.sum(losses * mask) / ops.maximum(ops.sum(mask), 1.0)

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """Catalogue rows `(U, k)` int32, -1 past the last; see `evaluation.Recommender`."""
        found = np.full((len(histories), k), -1, np.int32)
        for start in range(0, len(histories), _BATCH):
            batch = np.asarray(histories[start : start + _BATCH])
            scores = ops.convert_to_numpy(self.scores(batch)).copy()
            if filter_seen:
                user, place = np.nonzero(batch)
                scores[user, batch[user, place] - 1] = -np.inf
            best, rows = ops.top_k(scores, min(k, self.num_ads))
            rows = np.where(np.isfinite(best), rows, -1)
            found[start : start + len(batch), : rows.shape[1]] = rows
        return found

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), **self._config}
