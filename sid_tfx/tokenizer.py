"""SidTokenizer: encoder, quantizer and losses that give ads their semantic IDs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.callbacks import (
    CodebookRefit,
    ConflictMining,
    DeadCodeRevival,
    DiversityRefresh,
    ExplorationDecay,
    LearningRateDecay,
)
from sid_tfx.callbacks.fitting import fit_arguments
from sid_tfx.callbacks.given import each_callback, still_needed
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.datasets.sample import check_batches, sample_features
from sid_tfx.encoders import LatentEncoder
from sid_tfx.features import ESCAPE_CODE, AdSchema, FeatureSizes
from sid_tfx.health import distinct_share, perplexities
from sid_tfx.losses.objective import Objective, check_codebook, check_weights
from sid_tfx.precision import check_float32
from sid_tfx.quantizers import Quantizer
from sid_tfx.transformer import SeededLayers

_INITIALIZATION_ROWS = 16_384

# Arguments that act on training alone, as they ask for nothing.
_IDLE: dict[str, Any] = {
    "mine_conflicts": False,
    "repel_residual": False,
    "mask_conflicts": True,
    "refits": (),
    "decay_exploration": False,
}


@keras.saving.register_keras_serializable(package="sid_tfx")
class SidTokenizer(keras.Model):
    """From an ad's features to L codes and an embedding: a latent encoder and a quantizer.

    The encoder (`sid_tfx.encoders`) turns an ad into a latent vector, the quantizer
    (`sid_tfx.quantizers`) turns that into codes, and a decoder rebuilds the encoder's target from
    the codes alone. Any encoder goes with any quantizer of its latent size; `from_preset` composes
    the published methods.

    Losses, each a layer of `sid_tfx.losses`, weighted by `loss_weights`:

    | term | paper | acts on |
    |---|---|---|
    | `level_contrastive` | UniSID L_sid | level vectors, positives by category path |
    | `embedding_contrastive` | UniSID L_emb | embedding, positives by co-engagement |
    | `summary` | UniSID L_rec | SID and Emb states |
    | `reconstruction`, `quantization` | QuaSID L_rec, L_rq | codes against target; `z` |
    | `dual_tower` | QuaSID L_cl | `z`, positives by co-engagement |
    | `repulsion_full`, `repulsion_partial` | QuaSID L_HaMR | `z` where codes collide |
    | `escape` | ours | the last code of ads whose codes collide |
    | `alignment`, `diversity` | LETTER | quantized vectors; code vectors |

    `fit` takes batches of stacked pairs (`sid_tfx.datasets.pairs.PairBatches`): features of 2B
    rows, row i paired with row i + B, and `ad_row`. It sets the codebooks from data and revives
    dead codes while it trains; without both, residual codebooks collapse in an epoch or two. An
    encoder without weights has nothing to train: then `fit` sets the codebooks and is done.

    Everything is float32, whatever the hardware; another dtype policy is refused.

    Args:
        encoder: A `LatentEncoder`.
        quantizer: A `Quantizer` for vectors of the encoder's latent size.
        loss_weights: Term -> weight; a term that is not named is off.
        decoder_units: Width of each hidden layer of the decoder.
        temperature: tau of the contrastive terms.
        beta: Weight of the commitment term in `quantization`.
        full_margin: HaMR's margin for equal codes.
        partial_margin: HaMR's margin for codes within `radius`.
        radius: HaMR's R.
        mask_conflicts: Whether HaMR leaves out co-engaged pairs and copies of an ad (CVPM).
        repel_residual: Whether HaMR acts on what the last level quantizes, not on `z` (ours). Ads
            that share a prefix are near-equal in `z`, where a cosine finds little to push on; in
            what the prefix leaves over they are not.
        mine_conflicts: Whether ads whose codes collide are put into one batch, where HaMR sees
            them (ours; two given ads meet in a random batch once in many epochs). Needs
            `PairBatches`.
        decay_learning_rate: Whether `fit` lowers the learning rate by a cosine, where the optimizer
            has no schedule of its own.
        decay_exploration: Whether `fit` lowers the noise of a `gumbel` quantizer to 0 (DIGER).
        revive: Whether `fit` revives dead codes.
        refits: Shares of the epochs after which `fit` sets the codebooks from data anew.
        summary_rows: Rows of a batch whose summary is decoded.
        diversity_clusters: Groups of codes per level in LETTER's diversity term.
        seed: Seed of the decoder's and the losses' weights, of k-means and of revival.

    Raises:
        ValueError: An argument is out of its range or would do nothing, the parts do not fit
            together, or the dtype policy is not float32.

    Example:

    >>> schema = AdSchema(text={"title": 8}, categorical=("advertiser",), category_depth=2)
    >>> sizes = FeatureSizes(text=500, categorical={"advertiser": 40}, category=20)
    >>> tokenizer = SidTokenizer.from_preset("joint", schema, sizes, levels=3, codebook_size=64)
    >>> tokenizer.fit(PairBatches(features, pairs), epochs=10)
    >>> tokenizer.encode(features)["codes"].shape
    (2000, 3)

    Reference:
        UniSID, arXiv 2602.10445; QuaSID, arXiv 2603.00632.
    """

    built: bool

    def __init__(
        self,
        encoder: LatentEncoder,
        quantizer: Quantizer,
        loss_weights: Mapping[str, float],
        decoder_units: Sequence[int] = (128,),
        temperature: float = 0.07,
        beta: float = 0.25,
        full_margin: float = 0.8,
        partial_margin: float = 0.5,
        radius: int = 1,
        mask_conflicts: bool = True,
        repel_residual: bool = False,
        mine_conflicts: bool = False,
        decay_learning_rate: bool = True,
        decay_exploration: bool = False,
        revive: bool = True,
        refits: Sequence[float] = (),
        summary_rows: int = 16,
        diversity_clusters: int = 10,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_float32(self, encoder, quantizer)
        if encoder.latent_dim != quantizer.input_dim or encoder.levels != quantizer.levels:
            raise ValueError(
                f"The encoder gives vectors of {encoder.latent_dim} for {encoder.levels} levels, "
                f"the quantizer takes {quantizer.input_dim} for {quantizer.levels} levels; make "
                "both of one size."
            )
        self.encoder, self.quantizer = encoder, quantizer
        weights = check_weights(loss_weights, encoder, quantizer)
        if weights["escape"] and not mine_conflicts:
            raise ValueError(
                "The loss term 'escape' needs mine_conflicts=True, which finds the codes that ads "
                "move to; set it, or loss_weights={'escape': 0.0}."
            )
        if decay_exploration and not hasattr(quantizer, "exploration"):
            raise ValueError(
                "decay_exploration=True needs a quantizer with gradient='gumbel'; nothing else "
                "explores."
            )
        if not all(0.0 < share <= 1.0 for share in refits):
            raise ValueError(f"refits must hold shares of the epochs in (0, 1], got {refits}.")
        if refits and not quantizer.fits_data:
            raise ValueError(
                f"refits={tuple(refits)} would move nothing: this {type(quantizer).__name__} sets "
                "no codebooks from data. Set refits=(), or take a quantizer with "
                "initialization='kmeans' or 'balanced_kmeans'."
            )
        if not refits:
            check_codebook(weights, quantizer)
        objective: dict[str, Any] = {
            "temperature": temperature,
            "beta": beta,
            "full_margin": full_margin,
            "partial_margin": partial_margin,
            "radius": radius,
            "mask_conflicts": mask_conflicts,
            "repel_residual": repel_residual,
            "summary_rows": summary_rows,
            "diversity_clusters": diversity_clusters,
        }
        make = SeededLayers(seed)
        self.decoder: list[keras.layers.Dense] = []
        # Vectors quantized as they are need no decoder: the code vectors are of their kind.
        if encoder.has_weights or quantizer.dim != encoder.target_dim:
            self.decoder = [
                make.dense(width, activation="relu", name=f"decoder_{n}")
                for n, width in enumerate(decoder_units)
            ]
            self.decoder.append(make.dense(encoder.target_dim, name="decoder_out"))
        self.objective = Objective(
            encoder, quantizer, weights, **objective, seed=make.seed(), name="objective"
        )
        if not self.objective.terms:
            _refuse_without_losses(
                mine_conflicts=mine_conflicts,
                repel_residual=repel_residual,
                mask_conflicts=mask_conflicts,
                refits=tuple(refits),
                decay_exploration=decay_exploration,
            )
        self.mine_conflicts = mine_conflicts
        self.decay_learning_rate = decay_learning_rate
        self.decay_exploration = decay_exploration
        self.revive = revive
        self.refits = tuple(refits)
        self.seed = seed
        self._config = {
            **objective,
            "loss_weights": weights,
            "decoder_units": list(decoder_units),
            "mine_conflicts": mine_conflicts,
            "decay_learning_rate": decay_learning_rate,
            "decay_exploration": decay_exploration,
            "revive": revive,
            "refits": list(refits),
            "seed": seed,
        }
        health = ["distinct_share", *(f"perplexity_{n + 1}" for n in range(self.levels))]
        self.trackers = {
            name: keras.metrics.Mean(name=name) for name in [*self.objective.terms, *health]
        }
        self.build()
        # What a layer makes is trainable although the layer was constructed frozen, as a loaded one
        # is. Keras passes its state on where it is set, and on TensorFlow only where it changes.
        for part in (encoder, quantizer, self):
            if not part.trainable:
                part.trainable = True
                part.trainable = False

    @classmethod
    def from_preset(
        cls,
        name: str,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        **arguments: Any,
    ) -> SidTokenizer:
        """Returns an untrained tokenizer composed and compiled as a published method.

        See `sid_tfx.presets.build` for the arguments, and `sid_tfx.presets.PRESETS` for the names.
        """
        from sid_tfx.presets import build

        return build(name, schema, sizes, **arguments)

    @property
    def schema(self) -> AdSchema:
        """The ad's columns."""
        return self.encoder.schema

    @property
    def levels(self) -> int:
        """L, codes per ad."""
        return self.quantizer.levels

    @property
    def codebook_size(self) -> int:
        """K, values of a code."""
        return self.quantizer.codebook_size

    @property
    def embedding_dim(self) -> int:
        """Size of the embedding."""
        return self.encoder.embedding_dim

    def build(self, input_shape: Any = None) -> None:
        """Creates the decoder's variables."""
        if self.built:
            return
        size = self.quantizer.dim
        for layer in self.decoder:
            layer.build((None, size))
            size = layer.units
        self.built = True

    def reconstruct(self, quantized: Any) -> Any:
        """Returns the target that quantized vectors `[B, dim]` stand for, `[B, target_dim]`."""
        for layer in self.decoder:
            quantized = layer(quantized)
        return quantized

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Tokenizes ads.

        Args:
            features: Transformed features, batch first (docs/architecture.md).
            training: Whether dropout is on and codes count as used.

        Returns:
            `codes` int32 `[B, L]`; `embedding` float32 `[B, D]`, of length 1; `sid_embedding`
            float32 `[B, target_dim]`, what the codes alone say of the ad; `z` float32
            `[B, latent_dim]`, before quantization. With `ad_row` among the features, also what
            the losses read.
        """
        latent = self.encoder(features, training=training)
        quantized = self.quantizer(latent.vectors, training=training)
        outputs = {
            "codes": quantized.codes,
            "embedding": latent.embedding,
            "sid_embedding": self.reconstruct(quantized.quantized),
            "z": latent.vectors if latent.z is None else latent.z,
        }
        if "ad_row" in features:
            read_by_losses = {
                "target": latent.target,
                "states": latent.states,
                "level_vectors": latent.level_vectors,
                "quantized": quantized.quantized,
                "level_inputs": quantized.inputs,
                "code_vectors": quantized.vectors,
            }
            outputs |= {name: v for name, v in read_by_losses.items() if v is not None}
            if "diversity" in self.objective.terms:
                outputs["codebooks"] = self.quantizer.codebooks
            if "escape" in self.objective.terms:
                outputs["last_fits"] = self.quantizer.last_fits(
                    ops.unstack(quantized.inputs, axis=1)[-1]
                )
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
        codes = y_pred["codes"]
        self.trackers["distinct_share"].update_state(distinct_share(codes, x["ad_row"]))
        perplexity = perplexities(codes, self.codebook_size)
        for level in range(self.levels):
            self.trackers[f"perplexity_{level + 1}"].update_state(perplexity[level])
        return sum(terms.values()) + sum(self.losses)

    def compile(self, optimizer: Any = None, **kwargs: Any) -> None:
        """Configures training.

        Args:
            optimizer: A Keras optimizer; None for AdamW, learning rate 1e-3, weight decay 1e-5,
                gradients clipped to norm 1.
            **kwargs: As in `keras.Model.compile`. `jit_compile` is off on TensorFlow unless asked
                for: XLA uses one core of a CPU and is slow at dropout.

        Raises:
            ValueError: `loss` or `loss_weights` is given; the constructor's weights say what is
                trained on.
        """
        for name in ("loss", "loss_weights"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"compile can't take {name}: the losses are SidTokenizer's own, weighted by "
                    "the constructor's loss_weights; give the weights there or to from_preset."
                )
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
        """Sets the encoder's statistics, at first, and the codebooks from ads.

        Args:
            features: Feature name -> array `[N, ...]`.
            batch_size: Ads encoded at a time.
        """
        if not self._initialized():
            self.encoder.adapt(features, batch_size)
        self.quantizer.initialize(self._predict(features, batch_size)["z"], self.seed)

    def _initialized(self) -> bool:
        return bool(float(ops.convert_to_numpy(self.quantizer.initialized)))

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on batches of stacked pairs.

        Compiles with the defaults where `compile` was not called, and sets the codebooks from data
        where nothing did. Adds the callbacks that this tokenizer's parts need, where the given
        ones have none of the kind: `DeadCodeRevival`, `CodebookRefit` (on a first training),
        `ConflictMining` (on `PairBatches`), `LearningRateDecay` (unless Keras'
        `LearningRateScheduler` or `ReduceLROnPlateau` is given), `ExplorationDecay` and
        `DiversityRefresh`. To a `CallbackList` in place of a list nothing is added.

        Args:
            x: `PairBatches`, or a `PyDataset`, a `tf.data.Dataset` or what else Keras reads in
                batches, anew in each epoch.
            *args: As in `keras.Model.fit`.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            A `History`; empty where nothing is trained.

        Raises:
            TypeError: `x` is arrays or an iterator that can be read only once.
            ValueError: A batch lacks what a loss reads.

        Warns:
            UserWarning: `mine_conflicts` is set and nothing mines: `x` is no `PairBatches`.
        """
        check_batches(x)
        if not self.compiled:
            self.compile()
        first = not self._initialized()
        if first:
            self.initialize(sample_features(x, _INITIALIZATION_ROWS))
        if not self.objective.terms:
            history = keras.callbacks.History()
            history.set_model(self)
            return history
        callbacks = kwargs.get("callbacks") or []
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
            self._warn_of_no_mining(x, given)
            callbacks = [*still_needed(self._callbacks(x, first), given), *given]
        arguments = fit_arguments(x, {**kwargs, "callbacks": callbacks})
        callbacks = arguments["callbacks"]
        for callback in each_callback(getattr(callbacks, "callbacks", callbacks)):
            if isinstance(callback, ConflictMining):
                callback.prepare(self)
        return super().fit(x, *args, **arguments)

    def _callbacks(self, x: Any, first: bool) -> list[keras.callbacks.Callback]:
        """Returns the callbacks without which these parts do not train as they should."""
        needed: list[keras.callbacks.Callback] = []
        if self.revive:
            needed.append(DeadCodeRevival(seed=self.seed))
        if first and self.refits:
            needed.append(CodebookRefit(sample_features(x, _INITIALIZATION_ROWS), self.refits))
        if self.mine_conflicts and isinstance(x, PairBatches):
            needed.append(ConflictMining(x))
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if self.decay_learning_rate and not isinstance(self.optimizer._learning_rate, schedule):
            needed.append(LearningRateDecay())
        if hasattr(self.quantizer, "exploration") and self.decay_exploration:
            needed.append(ExplorationDecay())
        if "diversity" in self.objective.terms:
            needed.append(DiversityRefresh(self.objective.diversity, seed=self.seed))
        return needed

    def _warn_of_no_mining(self, x: Any, given: Iterable[keras.callbacks.Callback]) -> None:
        """Says so where colliding ads are to meet in one batch and nothing makes them."""
        mined = any(isinstance(callback, ConflictMining) for callback in each_callback(given))
        if not self.mine_conflicts or mined or isinstance(x, PairBatches):
            return
        idle, off = "", "mine_conflicts=False"
        if "escape" in self.objective.terms:
            idle = f", and the term 'escape' is 0 without the feature {ESCAPE_CODE!r}"
            off += " and loss_weights={'escape': 0.0}"
        warnings.warn(
            f"mine_conflicts=True does nothing on a {type(x).__name__}: only PairBatches can put "
            f"ads whose codes collide into one batch{idle}. Train on "
            "sid_tfx.datasets.pairs.PairBatches, give ConflictMining of the PairBatches behind "
            f"these data as a callback, or make the tokenizer with {off}.",
            stacklevel=3,
        )

    def _predict(
        self, features: Mapping[str, np.ndarray], batch_size: int
    ) -> dict[str, np.ndarray]:
        names = self.schema.input_features()
        missing = [name for name in names if name not in features]
        if missing:
            raise ValueError(f"The tokenizer needs the features {missing}, got {sorted(features)}.")
        inputs = {name: features[name] for name in names}
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

        Raises:
            ValueError: A feature is missing.
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
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "quantizer": keras.saving.serialize_keras_object(self.quantizer),
            **self._config,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SidTokenizer:
        """Makes the tokenizer that `get_config` describes, untrained."""
        parts = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("encoder", "quantizer")
        }
        return cls(**{**config, **parts})


def _refuse_without_losses(**given: Any) -> None:
    """Refuses arguments that act on training where nothing is trained.

    Args:
        **given: The values of `_IDLE`'s arguments.

    Raises:
        ValueError: One of them asks for something.
    """
    asked = [name for name, idle in _IDLE.items() if given[name] != idle]
    if asked:
        wanted = ", ".join(f"{name}={given[name]!r}" for name in asked)
        cure = ", ".join(f"{name}={_IDLE[name]!r}" for name in asked)
        raise ValueError(
            f"{wanted}: without a loss term nothing is trained, fit sets the codebooks from data "
            f"and is done. Set {cure}, or take a preset that trains, such as rq_vae."
        )
