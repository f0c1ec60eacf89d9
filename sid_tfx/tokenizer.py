"""SidTokenizer: encoder, quantizer and losses that give ads their semantic IDs."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.callbacks import CodebookRefit, ConflictMining, DeadCodeRevival
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.encoders.ad_encoder import AdEncoder
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.losses.joint import JointObjective, complete_loss_weights
from sid_tfx.quantizers import ResidualQuantizer
from sid_tfx.transformer import SeededLayers

_INITIALIZATION_ROWS = 8192


@keras.saving.register_keras_serializable(package="sid_tfx")
class SidTokenizer(keras.Model):
    """Joint encoder and quantizer: from an ad's features to L codes and an embedding.

    UniSID's encoder reads the ad. Each of its SID states gives a part of a vector, coarse levels
    longer than fine ones; their sum on the unit sphere, `z`, is quantized by residual codebooks.
    The Emb state gives the embedding, and a decoder rebuilds the embedding from the codes alone.
    UniSID's loss over the category path acts on heads of their own beside the codes: acting on
    `z`, it makes all ads of one advertiser and category one point, which no codebook can part.

    Losses, each a layer of `sid_tfx.losses`, weighted by `loss_weights`:

    | term | paper | acts on |
    |---|---|---|
    | `level_contrastive` | UniSID L_sid | heads of the SID states, positives by category path |
    | `embedding_contrastive` | UniSID L_emb | embedding, positives by co-engagement |
    | `summary` | UniSID L_rec | SID and Emb states |
    | `reconstruction`, `quantization` | QuaSID L_rec, L_rq | codes against embedding; `z` |
    | `dual_tower` | QuaSID L_cl | `z`, positives by co-engagement |
    | `repulsion` | QuaSID L_HaMR | `z` of ads whose codes collide |

    `fit` takes batches of stacked pairs (`sid_tfx.datasets.pairs.PairBatches`): features of 2B
    rows, row i paired with row i + B, and `ad_row`. It sets the codebooks by k-means and revives
    dead codes while it trains; without both, residual codebooks collapse in an epoch or two.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Vocabulary sizes, a `FeatureSizes` or its `to_dict()`.
        levels: L, codes per ad.
        codebook_size: K, values of a code.
        embedding_dim: D, size of the embedding.
        code_dim: Size of `z` and of a code vector.
        dim: Size of a token of the encoder.
        layers: Transformer blocks of the encoder.
        heads: Attention heads of the encoder; divides `dim`.
        dropout: Dropout rate in the encoder's blocks. None by default: an encoder that ignores
            small differences cannot give similar ads codes of their own.
        field_dropout: Share of an ad's field tokens hidden in training.
        text_tokens: Tokens a text column is pooled to.
        word_dim: Size of a word embedding.
        level_decay: Length of a level's vector relative to the level before.
        loss_weights: Term -> weight, in place of those of `sid_tfx.losses.joint.LOSS_WEIGHTS`;
            0 leaves a term out.
        temperature: tau of the three contrastive terms.
        beta: Weight of the commitment term in `quantization`.
        full_margin: HaMR's margin for equal codes.
        partial_margin: HaMR's margin for codes within `radius`.
        radius: HaMR's R.
        summary_rows: Rows of a batch whose summary is decoded.
        seed: Seed of initial weights, dropout and k-means.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> schema = AdSchema(text={"title": 8}, categorical=("advertiser",), category_depth=2)
    >>> sizes = FeatureSizes(text=500, categorical={"advertiser": 40}, category=20)
    >>> tokenizer = SidTokenizer(schema, sizes, levels=3, codebook_size=64)
    >>> tokenizer.fit(PairBatches(features, pairs), epochs=10)
    >>> tokenizer.encode(features)["codes"].shape
    (2000, 3)

    Reference:
        UniSID, arXiv 2602.10445; QuaSID, arXiv 2603.00632.
    """

    built: bool

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        levels: int = 3,
        codebook_size: int = 256,
        embedding_dim: int = 64,
        code_dim: int = 32,
        dim: int = 96,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        field_dropout: float = 0.0,
        text_tokens: int = 2,
        word_dim: int = 64,
        level_decay: float = 0.7,
        loss_weights: Mapping[str, float] | None = None,
        temperature: float = 0.07,
        beta: float = 0.25,
        full_margin: float = 0.8,
        partial_margin: float = 0.5,
        radius: int = 1,
        summary_rows: int = 16,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, size in {"embedding_dim": embedding_dim, "code_dim": code_dim}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        if not 0.0 < level_decay <= 1.0:
            raise ValueError(f"level_decay must be in (0, 1], got {level_decay}.")
        make = SeededLayers(seed)
        encoder: dict[str, Any] = {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "field_dropout": field_dropout,
            "text_tokens": text_tokens,
            "word_dim": word_dim,
        }
        objective: dict[str, Any] = {
            "temperature": temperature,
            "beta": beta,
            "full_margin": full_margin,
            "partial_margin": partial_margin,
            "radius": radius,
            "summary_rows": summary_rows,
        }
        self.encoder = AdEncoder(schema, sizes, levels, **encoder, seed=make.seed(), name="encoder")
        self.schema, self.sizes = self.encoder.schema, self.encoder.sizes
        weights = complete_loss_weights(loss_weights)
        self.code_heads = [make.dense(code_dim, name=f"code_{n}") for n in range(levels)]
        self.centering = keras.layers.BatchNormalization(
            momentum=0.95, center=False, scale=False, name="centering"
        )
        self.embedding_head = make.dense(embedding_dim, name="embedding_head")
        self.quantizer = ResidualQuantizer(
            levels, codebook_size, code_dim, seed=make.seed(), name="quantizer"
        )
        self.decoder_in = make.dense(2 * embedding_dim, activation="relu", name="decoder_in")
        self.decoder_out = make.dense(embedding_dim, name="decoder_out")
        self.objective = JointObjective(
            self.schema,
            self.sizes,
            levels,
            state_dim=dim,
            weights=weights,
            **objective,
            seed=make.seed(),
            name="objective",
        )
        self.level_heads = []
        if "level_contrastive" in self.objective.terms:
            self.level_heads = [make.dense(code_dim, name=f"level_{n}") for n in range(levels)]
        self.levels = levels
        self.codebook_size = codebook_size
        self.embedding_dim = embedding_dim
        self.code_dim = code_dim
        self.level_decay = level_decay
        self.seed = seed
        self._config = {**encoder, **objective, "loss_weights": weights}
        health = ["distinct_sids", *(f"perplexity_{n + 1}" for n in range(levels))]
        self.trackers = {
            name: keras.metrics.Mean(name=name) for name in [*self.objective.terms, *health]
        }
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates every variable; the schema says all there is to know about the shapes."""
        if self.built:
            return
        for head in [*self.level_heads, *self.code_heads]:
            head.build((None, self.encoder.dim))
        self.centering.build((None, self.code_dim))
        self.embedding_head.build((None, self.encoder.dim))
        self.decoder_in.build((None, self.code_dim))
        self.decoder_out.build((None, 2 * self.embedding_dim))
        self.built = True

    def project(self, sid_states: Any, training: bool | None = None) -> Any:
        """Returns `z`, float `[B, code_dim]` of length 1, for SID states `[B, L, dim]`."""
        # Repulsion by cosine has no force between vectors that are almost equal. Without the
        # common part that all ads share, near-equal ads start apart, and the codes fill the sphere.
        centered = self.centering(self._combine(sid_states), training=training)
        # On the sphere no term can win by shrinking z, which is how commitment collapses it.
        return ops.normalize(centered, axis=-1)

    def _combine(self, sid_states: Any) -> Any:
        """Returns the sum of the levels' parts, coarse ones longer, float `[B, code_dim]`."""
        parts = _heads(self.code_heads, sid_states)
        lengths = np.power(self.level_decay, np.arange(self.levels), dtype="float32")
        return ops.sum(ops.normalize(parts, axis=-1) * lengths[:, None], axis=1)

    def reconstruct(self, quantized: Any) -> Any:
        """Returns the embedding that quantized vectors `[B, code_dim]` stand for, `[B, D]`."""
        return self.decoder_out(self.decoder_in(quantized))

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Tokenizes ads.

        Args:
            features: Transformed features, batch first (docs/architecture.md).
            training: Whether dropout is on and codes count as used.

        Returns:
            `codes` int32 `[B, L]`; `embedding` float32 `[B, D]`, of length 1; `sid_embedding`
            float32 `[B, D]`, what the codes alone say of it; `z` float32 `[B, code_dim]`, of
            length 1, before quantization. With `ad_row` among the features, also what the losses
            read.
        """
        states = self.encoder(features, training=training)
        z = self.project(states.sid_states, training=training)
        quantized = self.quantizer(z, training=training)
        outputs = {
            "codes": quantized.codes,
            "embedding": ops.normalize(self.embedding_head(states.embedding_state), axis=-1),
            "sid_embedding": self.reconstruct(quantized.quantized),
            "z": z,
        }
        if "ad_row" in features:
            outputs |= {
                "sid_states": states.sid_states,
                "embedding_state": states.embedding_state,
                "level_inputs": quantized.inputs,
                "code_vectors": quantized.vectors,
            }
            if self.level_heads:
                outputs["level_vectors"] = _heads(self.level_heads, states.sid_states)
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the sum of the weighted terms; updates the terms' and the health metrics.

        Raises:
            ValueError: The batch has no `ad_row`.
        """
        if "ad_row" not in x:
            raise ValueError(
                f"A training batch needs the feature 'ad_row', got {sorted(x)}; "
                "sid_tfx.datasets.pairs.PairBatches makes such batches."
            )
        terms = self.objective(x, y_pred)
        for name, value in terms.items():
            self.trackers[name].update_state(value)
        self._track_health(y_pred["codes"], x["ad_row"])
        return sum(terms.values()) + sum(self.losses)

    def _track_health(self, codes: Any, ad_row: Any) -> None:
        """Updates the share of distinct SIDs among a batch's ads and each level's perplexity."""
        # An ad is clear when it is no copy of an earlier row's SID; copies of the ad don't count.
        same = ops.all(ops.equal(codes[:, None], codes[None]), axis=-1)
        other_ad = ops.not_equal(ad_row[:, None], ad_row[None])
        rows = ops.arange(ops.shape(codes)[0])
        earlier = ops.less(rows[None], rows[:, None])
        copied = ops.any(ops.logical_and(ops.logical_and(same, other_ad), earlier), axis=-1)
        self.trackers["distinct_sids"].update_state(1.0 - ops.cast(copied, "float32"))
        used = ops.mean(ops.one_hot(codes, self.codebook_size, dtype="float32"), axis=0)
        entropy = -ops.sum(used * ops.log(used + 1e-9), axis=-1)
        for level in range(self.levels):
            self.trackers[f"perplexity_{level + 1}"].update_state(ops.exp(entropy[level]))

    def compile(self, optimizer: Any = None, **kwargs: Any) -> None:
        """Configures training.

        Args:
            optimizer: A Keras optimizer; None for AdamW, learning rate 1e-3, weight decay 1e-5,
                gradients clipped to norm 1.
            **kwargs: As in `keras.Model.compile`. `jit_compile` is off on TensorFlow unless asked
                for: XLA uses one core of a CPU and is slow at dropout.
        """
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-3, weight_decay=1e-5, global_clipnorm=1.0)
        if keras.backend.backend() == "tensorflow":
            kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)
        # All variables exist, so the optimizer's can too: made while the step is traced, they
        # double the time to the first step.
        self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as the saved one was."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def initialize(self, features: Mapping[str, np.ndarray], batch_size: int = 512) -> None:
        """Sets the codebooks by k-means on what the encoder makes of ads.

        Args:
            features: Feature name -> array `[N, ...]`.
            batch_size: Ads encoded at a time.
        """
        if not float(ops.convert_to_numpy(self.quantizer.initialized)):
            # The running mean and variance start at 0 and 1, far from what the encoder makes.
            rows = len(next(iter(features.values())))
            parts = []
            for start in range(0, rows, batch_size):
                part = {name: v[start : start + batch_size] for name, v in features.items()}
                parts.append(ops.convert_to_numpy(self._combine(self.encoder(part).sid_states)))
            combined = np.concatenate(parts)
            self.centering.moving_mean.assign(combined.mean(axis=0))
            self.centering.moving_variance.assign(combined.var(axis=0) + 1e-6)
        self.quantizer.initialize(self._predict(features, batch_size)["z"], self.seed)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on batches of stacked pairs.

        Compiles with the defaults where `compile` was not called, and sets the codebooks by
        k-means where nothing did. Adds `DeadCodeRevival`, `CodebookRefit` (on a first training) and
        `ConflictMining` (on `PairBatches`, with HaMR) where the callbacks have none of the kind.
        """
        if not self.compiled:
            self.compile()
        defaults: list[keras.callbacks.Callback] = [DeadCodeRevival(seed=self.seed)]
        if not float(ops.convert_to_numpy(self.quantizer.initialized)):
            sample = _first_rows(x, _INITIALIZATION_ROWS)
            self.initialize(sample)
            defaults.append(CodebookRefit(sample))
        if isinstance(x, PairBatches) and "repulsion" in self.objective.terms:
            defaults.append(ConflictMining(x))
        callbacks = kwargs.pop("callbacks", None) or []
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
            given = {type(callback) for callback in callbacks}
            defaults = [default for default in defaults if type(default) not in given]
            callbacks = [*defaults, *callbacks]
        if isinstance(x, keras.utils.PyDataset):
            # Keras would shuffle batches by the global random state; PairBatches shuffles ads.
            kwargs.setdefault("shuffle", False)
        return super().fit(x, *args, callbacks=callbacks, **kwargs)

    def _predict(
        self, features: Mapping[str, np.ndarray], batch_size: int
    ) -> dict[str, np.ndarray]:
        inputs = {name: features[name] for name in self.schema.input_features()}
        return self.predict(inputs, batch_size=batch_size, verbose=0)

    def encode(
        self, features: Mapping[str, np.ndarray], batch_size: int = 1024
    ) -> dict[str, np.ndarray]:
        """Tokenizes all ads of arrays.

        Args:
            features: Feature name -> array `[N, ...]`; others than the schema's are ignored.
            batch_size: Ads at a time.

        Returns:
            `codes`, `embedding`, `sid_embedding` and `z`, as `call` says, `[N, ...]`.
        """
        return self._predict(features, batch_size)

    def ranked_codes(
        self, features: Mapping[str, np.ndarray], n: int, batch_size: int = 256
    ) -> np.ndarray:
        """Returns each ad's `n` best code tuples, best first, int32 `[N, n, L]`.

        The first tuple is what `encode` gives; an ad whose SID is taken may use a later one.

        Args:
            features: Feature name -> array `[N, ...]`.
            n: Tuples per ad, at most K ** L.
            batch_size: Ads at a time.
        """
        z = self._predict(features, batch_size)["z"]
        parts = [
            ops.convert_to_numpy(self.quantizer.ranked_codes(z[start : start + batch_size], n))
            for start in range(0, len(z), batch_size)
        ]
        return np.concatenate(parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            "name": self.name,
            "schema": self.schema.to_dict(),
            "sizes": self.sizes.to_dict(),
            "levels": self.levels,
            "codebook_size": self.codebook_size,
            "embedding_dim": self.embedding_dim,
            "code_dim": self.code_dim,
            "level_decay": self.level_decay,
            "seed": self.seed,
            **self._config,
        }


def _heads(heads: list[keras.layers.Dense], sid_states: Any) -> Any:
    """Applies one head per level, `[B, L, dim]` to `[B, L, code_dim]`."""
    return ops.stack([head(sid_states[:, level]) for level, head in enumerate(heads)], axis=1)


def _first_rows(batches: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns the features of the first batches, at least `rows` ads where there are as many."""
    taken: list[Mapping[str, Any]] = []
    count = 0
    if isinstance(batches, Mapping):
        taken = [batches]
    else:
        order = (
            (batches[index] for index in range(len(batches)))
            if isinstance(batches, keras.utils.PyDataset)
            else batches
        )
        for batch in order:
            features = batch[0] if isinstance(batch, tuple) else batch
            taken.append(features)
            count += len(features["ad_row"])
            if count >= rows:
                break
    return {
        name: np.concatenate([ops.convert_to_numpy(features[name]) for features in taken])
        for name in taken[0]
    }
