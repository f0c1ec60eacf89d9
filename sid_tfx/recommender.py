"""The generative recommender: a history of ads in, the semantic ID of the next ad out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.architectures import ARCHITECTURES, AdInputs
from sid_tfx.catalog import SidCatalog
from sid_tfx.context import EventContext
from sid_tfx.cross_entropy import cross_entropy
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.embedding import look_up
from sid_tfx.layers import CatalogSoftmax, ContextEmbedding, DenseHead, SuccessorMemory
from sid_tfx.layers.history import history_rows, next_rows, read_histories
from sid_tfx.precision import check_float32
from sid_tfx.sequence_model import SequenceModel
from sid_tfx.transformer import SeededLayers

_ARCHITECTURE_ARGUMENTS = (
    "hidden_size", "num_layers", "num_heads", "mlp_size", "head_size", "head_layers", "max_history",
    "dropout",
)  # fmt: skip


@keras.saving.register_keras_serializable(package="sid_tfx")
class SidRecommender(SequenceModel):
    """A transformer that reads a user's history of ads and writes the next ad's semantic ID.

    How it reads and writes is its architecture (`sid_tfx.architectures`): `"item_level"`, one
    position per ad and a small head over the code levels; `"flat"`, a language model of codes;
    `"tiger"`, TIGER's encoder-decoder (arXiv 2305.05065). The first two take the loss at every
    position of every history at once (`SequenceBatches`), TIGER at one target per example
    (`TargetBatches`). Beside the codes, a dense loss trains the state to find the next ad by inner
    product with ad vectors, for hybrid scoring as in LIGER (arXiv 2411.18814) and COBRA
    (arXiv 2503.02453); and a `SuccessorMemory` may hold what followed which ad in training.

    The tables of the catalogue are weights that aren't trained: `set_catalog` fills them, `.keras`
    files carry them. Histories are int32 `[B, T]` of catalogue row + 1, oldest first; 0 is padding
    or an unknown ad, on either side or in between: the same ads give the same result.

    A model with a `context` also reads histories `[B, T, 1 + C]` that have the ids of
    `EventContext.encode` beside each row, as `Sequences.in_context` makes them. They enter as
    further embeddings of the ad. To such a model `[B, T]` means that no context is known, which
    `context_dropout` has made it used to.

    Works on the TensorFlow and the JAX backend; `SidDecoder` (TensorFlow) does the decoding.

    Args:
        num_ads: Ads in the catalogue.
        levels: Codes per semantic ID, without the de-dup token.
        codebook_size: Codes per level.
        dedup_size: Number of de-dup tokens.
        content_size: Size of the catalogue's embeddings.
        architecture: A key of `ARCHITECTURES`.
        hidden_size: Size of the states.
        num_layers: Transformer blocks; for `"tiger"` in encoder and decoder each.
        num_heads: Attention heads.
        mlp_size: Width of the blocks' MLPs.
        head_size: Width of the level head of `"item_level"`.
        head_layers: Hidden layers of that head.
        max_history: Newest ads of a history that are read.
        dropout: Rate in blocks and head.
        item_dropout: Share of a history's ads hidden from the model in training.
        label_smoothing: Of the code losses.
        catalog_softmax: Whether a code's probability is among those that the catalogue has after
            the same prefix (`CatalogSoftmax`), in training and decoding, or among all codes.
        id_embedding: Whether ads have a trained vector of their own beside codes and content.
        dense_loss_weight: Weight of the dense loss; 0 trains the codes alone, so the untrained
            dense score starts with `dense_weight` 0, not 1, in hybrid mode.
        dense_negatives: The dense loss compares with all ads if there are at most this many, else
            with this many drawn uniformly per step.
        context: An `EventContext`, or its `to_dict()`: what is read beside the ads; None for
            nothing.
        context_dropout: Share of histories that lose their context in training, and of those that
            lose each field of it.
        successor_sizes: Entries of the `SuccessorMemory` and the most that an ad has; None for no
            memory. `for_catalog` takes them from the table it is given.
        seed: Integer; fixes initial weights and dropout.
        **kwargs: As of `keras.Model`. Any dtype policy but float32 is refused.

    Example:

    >>> catalog = SidCatalog.build(
    ...     ["a", "b", "c"], [[0, 1], [1, 1], [1, 0]], np.eye(3), codebook_size=2
    ... )
    >>> model = SidRecommender.for_catalog(catalog, hidden_size=16, num_heads=2, head_size=16)
    >>> model.compile(keras.optimizers.Adam(1e-2))
    >>> history = model.fit(np.array([[1, 2, 3, 0], [2, 3, 1, 2]]), verbose=0)
    >>> model.user_state(np.array([[1, 2]])).shape
    TensorShape([1, 16])
    """

    def __init__(
        self,
        num_ads: int,
        levels: int,
        codebook_size: int,
        dedup_size: int,
        content_size: int,
        architecture: str = "item_level",
        hidden_size: int = 192,
        num_layers: int = 2,
        num_heads: int = 4,
        mlp_size: int = 768,
        head_size: int = 384,
        head_layers: int = 2,
        max_history: int = 50,
        dropout: float = 0.3,
        item_dropout: float = 0.0,
        label_smoothing: float = 0.05,
        catalog_softmax: bool = True,
        id_embedding: bool = True,
        dense_loss_weight: float = 1.0,
        dense_negatives: int = 20000,
        context: EventContext | Mapping[str, Any] | None = None,
        context_dropout: float = 0.2,
        successor_sizes: Sequence[int] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_float32(self)
        if not isinstance(context, EventContext):
            context = EventContext.from_dict(context)
        self._config: dict[str, Any] = {
            "num_ads": num_ads,
            "levels": levels,
            "codebook_size": codebook_size,
            "dedup_size": dedup_size,
            "content_size": content_size,
            "architecture": architecture,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_size": mlp_size,
            "head_size": head_size,
            "head_layers": head_layers,
            "max_history": max_history,
            "dropout": dropout,
            "item_dropout": item_dropout,
            "label_smoothing": label_smoothing,
            "catalog_softmax": catalog_softmax,
            "id_embedding": id_embedding,
            "dense_loss_weight": dense_loss_weight,
            "dense_negatives": dense_negatives,
            "context": context.to_dict(),
            "context_dropout": context_dropout,
            "successor_sizes": list(successor_sizes) if successor_sizes else None,
            "seed": seed,
        }
        _check_config(self._config)
        self.num_ads = num_ads
        self.level_sizes = (codebook_size,) * levels + (dedup_size,)
        self.max_history = max_history
        self.item_dropout = item_dropout
        self.label_smoothing = label_smoothing
        self.dense_loss_weight = dense_loss_weight
        self.context = context
        make = SeededLayers(seed)

        # Row 0 of each table is padding, so that histories index them directly.
        self.ad_codes = self.add_weight(
            shape=(num_ads + 1, levels + 1),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name="ad_codes",
        )
        self.ad_content = self.add_weight(
            shape=(num_ads + 1, content_size),
            initializer="zeros",
            trainable=False,
            name="ad_content",
        )
        # What nothing trains has no say in hybrid mode.
        self.dense_weight = self._hybrid_weight("dense_weight", float(dense_loss_weight > 0))
        self.successor_weight = self._hybrid_weight("successor_weight", 1.0)
        self.id_vectors = None
        if id_embedding:
            self.id_vectors = self.add_weight(
                shape=(num_ads + 1, hidden_size),
                initializer=keras.initializers.RandomNormal(stddev=0.02, seed=make.seed()),
                name="id_vectors",
            )
        shared = ("content_size", *_ARCHITECTURE_ARGUMENTS)
        self.architecture = ARCHITECTURES[architecture](
            self.level_sizes,
            **{name: self._config[name] for name in shared},
            seed=make.seed(),
            name="architecture",
        )
        self.dense_head = DenseHead(
            hidden_size, content_size, dense_negatives, seed=make.seed(), name="dense_head"
        )
        self.catalog_softmax = None
        if catalog_softmax:
            self.catalog_softmax = CatalogSoftmax(num_ads, self.level_sizes, name="catalog_softmax")
        self.successors = None
        if successor_sizes:
            self.successors = SuccessorMemory(num_ads, *successor_sizes, name="successors")
        self.draws = keras.random.SeedGenerator(make.seed(), name="draws")
        self.context_embedding = None
        if context:
            self.context_embedding = ContextEmbedding(
                context.sizes, hidden_size, context_dropout, make.seed(), name="context_embedding"
            )
        self.sid_loss = keras.metrics.Mean(name="sid_loss")
        self.dense_loss = keras.metrics.Mean(name="dense_loss")
        self.build((None, None))

    @classmethod
    def for_catalog(
        cls, catalog: SidCatalog, successors: SuccessorTable | None = None, **kwargs: Any
    ) -> SidRecommender:
        """A model with the sizes of `catalog`, its tables set.

        Args:
            catalog: The ads.
            successors: What hybrid mode remembers of the training log; None, or a table without
                entries, for nothing.
            **kwargs: As the constructor's.
        """
        model = cls(
            num_ads=len(catalog),
            levels=catalog.levels,
            codebook_size=catalog.codebook_size,
            dedup_size=catalog.dedup_size,
            content_size=catalog.embeddings.shape[1],
            successor_sizes=None if successors is None else successors.sizes,
            **kwargs,
        )
        model.set_catalog(catalog)
        if successors is not None and model.successors is not None:
            model.successors.set_table(successors)
        return model

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes all weights; the constructor calls it, for every size is known there."""
        self.dense_head.build((None, None, self._config["hidden_size"]))
        if self.context_embedding is not None:
            self.context_embedding.build((None, None, len(self.context.sizes)))
        self.built = True

    def _hybrid_weight(self, name: str, start: float) -> Any:
        initializer = keras.initializers.Constant(start)
        return self.add_weight(shape=(), initializer=initializer, trainable=False, name=name)

    def set_catalog(self, catalog: SidCatalog) -> None:
        """Fills the tables of the catalogue, which must have the sizes the model was made with."""
        want = (self.num_ads, self.level_sizes, self._config["content_size"])
        got = (len(catalog), catalog.level_sizes, int(catalog.embeddings.shape[1]))
        if want != got:
            raise ValueError(
                f"This recommender was made for (ads, level sizes, content size) = {want}, the "
                f"catalogue has {got}. Make one with SidRecommender.for_catalog(catalog)."
            )
        # Upstream encoders differ in scale by orders of magnitude; unit RMS suits the projection.
        scale = float(np.sqrt(np.mean(np.square(catalog.embeddings, dtype=np.float64))))
        self.ad_codes.assign(np.pad(catalog.full_codes, [(1, 0), (0, 0)]))
        if self.catalog_softmax is not None:
            self.catalog_softmax.set_codes(catalog.full_codes)
        content = catalog.embeddings / max(scale, 1e-12)
        self.ad_content.assign(np.pad(content.astype(np.float32), [(1, 0), (0, 0)]))

    @property
    def one_target(self) -> bool:
        """Whether it trains on `TargetBatches`; otherwise on `SequenceBatches`."""
        return self.architecture.one_target

    def call(self, histories: Any, training: bool = False) -> Any:
        """States that the losses read: `[B, T, hidden_size]`, one per ad, or one per code.

        Args:
            histories: int32 `[B, T]` or `[B, T, 1 + C]`, `T <= max_history` (longer ones are cut
                to the newest); or a batch of `SequenceBatches`, several histories in a row.
            training: Whether to drop.
        """
        return self.architecture.read(self._inputs(histories, training), training)

    def _inputs(self, histories: Any, training: bool = False) -> AdInputs:
        """What is known of the ads of the histories, moved to the left."""
        histories, segments = read_histories(histories, self.max_history)
        rows = history_rows(histories)
        kept = None
        if training and self.item_dropout:
            shape = (*ops.shape(rows), 1)
            kept = keras.random.uniform(shape, seed=self.draws) >= self.item_dropout
            kept = ops.cast(kept, self.compute_dtype)
        return AdInputs(
            rows,
            look_up(self.ad_codes, rows),
            look_up(self.ad_content, rows),
            self._further_vectors(histories, training, segments),
            kept,
            segments,
        )

    def _further_vectors(self, histories: Any, training: bool, segments: Any) -> Any:
        """Id vectors plus context of packed histories, `[B, T, hidden_size]`, or None."""
        rows, fields = history_rows(histories), len(self.context.sizes)
        vectors = None if self.id_vectors is None else look_up(self.id_vectors, rows)
        if len(histories.shape) == 3 and histories.shape[-1] != 1 + fields:
            raise ValueError(
                f"Histories have {histories.shape[-1] - 1} context ids beside each row, this "
                f"recommender reads {fields}, {self.context.fields}; make them with "
                "Sequences.in_context(recommender.context)."
            )
        if self.context_embedding is None:
            return vectors
        if len(histories.shape) == 3:
            ids = histories[..., 1:]
        else:
            ids = ops.zeros((*ops.shape(rows), fields), "int32")
        context = self.context_embedding(ids, training=training, segments=segments)
        return context if vectors is None else vectors + context

    def user_state(self, histories: Any) -> Any:
        """What decoding knows of each history, any nest of tensors `[B, ...]`.

        Args:
            histories: int32 `[B, T]` or `[B, T, 1 + C]`, as `call`.
        """
        return self.architecture.user_state(self._inputs(histories))

    def next_log_probs(self, state: Any, prefix: Any) -> Any:
        """Log-probabilities of the next code, for beam search.

        With a `catalog_softmax` up to a constant per beam: to normalize them takes the codes that
        the catalogue has after each prefix, which the search knows.

        Args:
            state: Of `user_state`.
            prefix: int32 `[B, W, l]`, the first `l` codes of each beam.

        Returns:
            float `[B, W, level_sizes[l]]`; at level 0, where all beams are equal, `[B, 1, ...]`.
        """
        return self._log_probs(self.architecture.next_logits(state, prefix))

    def _log_probs(self, logits: Any) -> Any:
        return logits if self.catalog_softmax is not None else ops.log_softmax(logits)

    def initial_cache(self, state: Any) -> Any:
        """What a beam carries from level to level, before the first code."""
        return self.architecture.initial_cache(state)

    def cached_log_probs(self, state: Any, prefix: Any, cache: Any) -> tuple[Any, Any]:
        """As `next_log_probs`, with a cache in which only the last code of `prefix` is new.

        Returns:
            The log-probabilities, and the cache of the next level in the order of `prefix`.
        """
        logits, cache = self.architecture.cached_logits(state, prefix, cache)
        return self._log_probs(logits), cache

    def sid_log_probs(self, state: Any, rows: Any) -> Any:
        """Log-probability of the full codes of given ads, as `SidDecoder` scores them.

        Args:
            state: Of `user_state`.
            rows: int32 `[B, C]`, row + 1.

        Returns:
            float `[B, C]`.
        """
        codes = look_up(self.ad_codes, rows)
        total, cache = 0.0, self.initial_cache(state)
        for level in range(len(self.level_sizes)):
            log_probs, cache = self.cached_log_probs(state, codes[..., :level], cache)
            if level == 0:
                log_probs = ops.broadcast_to(log_probs, (*ops.shape(rows), self.level_sizes[0]))
            if self.catalog_softmax is not None:
                log_probs = ops.log_softmax(self.catalog_softmax.mask(level, log_probs, rows))
            picked = ops.take_along_axis(log_probs, codes[..., level : level + 1], axis=-1)
            total = total + picked[..., 0]
        return total

    def item_vectors(self) -> Any:
        """Vectors `[N, hidden_size]` of all ads, in catalogue order, for dense retrieval."""
        return self.dense_head.vectors(self.ad_content, self.id_vectors)[1:]

    def dense_query(self, state: Any) -> Any:
        """Query `[B, hidden_size]` whose inner product with `item_vectors` is the dense score."""
        return self.dense_head(self.architecture.user_vector(state))

    def dense_scores(self, state: Any) -> Any:
        """Dense scores `[B, N]` of all ads."""
        return ops.matmul(self.dense_query(state), ops.transpose(self.item_vectors()))

    def history_loss(self, x: Any, y: Any, y_pred: Any, training: bool = True) -> Any:
        """Mean over all targets of the code losses plus the weighted dense loss.

        Args:
            x: The histories, as `call` takes them.
            y: Targets of the histories, int32 `[B]` of row + 1; None where each ad of a history
                is the target of the ads before it.
            y_pred: The states that `call` returned.
            training: Whether to drop.

        Raises:
            ValueError: The architecture needs targets and gets none, or the other way round.
        """
        histories, segments = read_histories(x, self.max_history)
        rows = history_rows(histories)
        if y is None:
            codes = look_up(self.ad_codes, rows)
            logits, states = self.architecture.sequence_logits(y_pred, codes, training)
            targets = ops.reshape(next_rows(rows, segments), (-1,))
        else:
            targets = ops.cast(y, "int32")
            codes = look_up(self.ad_codes, targets)
            logits, states = self.architecture.target_logits(y_pred, rows, codes, training)
        sid = self._code_losses(logits, targets)
        mask = ops.cast(targets > 0, states.dtype)
        count = ops.maximum(ops.sum(mask), 1.0)
        loss = sid = ops.sum(sid * mask) / count
        self.sid_loss.update_state(sid)
        if self.dense_loss_weight:
            dense = self.dense_head.loss(states, targets, self.ad_content, self.id_vectors)
            dense = ops.sum(dense * mask) / count
            self.dense_loss.update_state(dense)
            loss = loss + self.dense_loss_weight * dense
        return loss

    def _code_losses(self, logits: list[Any], targets: Any) -> Any:
        """Cross-entropy `[P]` of the codes of the target ads, summed over levels."""
        codes = look_up(self.ad_codes, targets)
        if self.catalog_softmax is not None:
            return self.catalog_softmax.losses(logits, codes, targets, self.label_smoothing)
        return sum(
            cross_entropy(level_logits, codes[:, level], self.label_smoothing)
            for level, level_logits in enumerate(logits)
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), **self._config}


def _check_config(config: dict[str, Any]) -> None:
    if config["architecture"] not in ARCHITECTURES:
        raise ValueError(
            f"architecture must be one of {sorted(ARCHITECTURES)}, got {config['architecture']!r}."
        )
    positive = (
        "num_ads levels codebook_size dedup_size content_size hidden_size num_layers num_heads "
        "mlp_size head_size head_layers max_history dense_negatives"
    )
    for name in positive.split():
        if config[name] < 1:
            raise ValueError(f"{name} must be >= 1, got {config[name]}.")
    for name in ("dropout", "item_dropout", "label_smoothing", "context_dropout"):
        if not 0 <= config[name] < 1:
            raise ValueError(f"{name} must be in [0, 1), got {config[name]}.")
    if config["dense_loss_weight"] < 0:
        raise ValueError(f"dense_loss_weight must be >= 0, got {config['dense_loss_weight']}.")
