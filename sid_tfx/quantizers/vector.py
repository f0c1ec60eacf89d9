"""The common structure of quantizers that pick code vectors for slices of a vector."""

from typing import Any

import keras
from keras import ops

from sid_tfx.quantizers.beam import check_count
from sid_tfx.quantizers.fitted import FittedQuantizer
from sid_tfx.quantizers.gradient import ESTIMATORS
from sid_tfx.quantizers.gumbel import gumbel_noise, soft_vectors
from sid_tfx.quantizers.learning import mean_cost, moving_average
from sid_tfx.quantizers.matching import best
from sid_tfx.quantizers.quantizer import QuantizerOutput
from sid_tfx.quantizers.search import nearest_tuples
from sid_tfx.quantizers.slices import Slices
from sid_tfx.quantizers.space import CodeSpace, read_codes


@keras.saving.register_keras_serializable(package="sid_tfx")
class VectorQuantizer(FittedQuantizer):
    """Quantizer with codebooks: level l quantizes a slice of what is left of the vector.

    Each level takes its slice of the vector less the code vectors of the levels before it, picks a
    code, and takes the code vector away in turn. Slices that are the whole vector make a residual
    quantizer, disjoint ones a product quantizer. A vector is approximated by the sum of its code
    vectors, each at its slice. The subclasses make the slices of fewer arguments; of one's own they
    may overlap and leave dimensions out.

    The options combine freely, but for those that contradict each other.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
        slices: First dimension and end of what each level quantizes.
        assignment: How a code is chosen. `nearest`: by squared distance. `cosine`: by the angle;
            the code vector keeps its length, but with `factor_dim` has length 1. `sinkhorn`:
            training batches are shared out evenly over the codes, inference takes the nearest.
        gradient: How a gradient passes the choice. `straight_through`: unchanged. `rotation`:
            turned as the vector is turned to its code. `gumbel`: codes of training batches are
            drawn at random, softmax(-cost / temperature) with noise times `exploration`, and the
            gradient is that of the softmax mixture, so it reaches vectors and codebook; without
            training it is straight-through.
        learning: What moves the codebook. `gradient`: a loss, `CodebookCommitment` with
            `inputs` and `vectors`. `ema`: moving averages of what is assigned to each code.
        codebook: `table`: free vectors. `linear`: a frozen basis times a learned matrix per level.
        factor_dim: Size of a low-dimensional space to which a learned linear map takes each
            level's input; codes are matched there and mapped up again. None for no such space.
        initialization: What `initialize` does. `kmeans`; `balanced_kmeans`: clusters of equal
            size, by offsets on the costs of codes; `random`: codebooks stay as they were drawn.
        rotation: Whether a learned orthogonal matrix turns vectors before they are cut in slices.
        balance: In training, how fast the cost of crowded codes rises and that of empty ones falls.
        ema_decay: Share of the moving averages that a batch keeps.
        temperature: Of `gumbel`, in units of squared distance.
        exploration: Of `gumbel`: scale of the noise at the start, `initial_exploration`. The weight
            `exploration` holds that of now; a callback may lower it to 0.
        seed: Seed of the initial codebooks and of noise.
        usage_momentum: Share of the running code counts that a batch keeps.

    Raises:
        ValueError: An argument is out of its range, not one of the names, or contradicts another.

    Example:

    >>> quantizer = VectorQuantizer(3, 16, 8, slices=[(0, 8), (0, 8), (6, 8)])
    >>> quantizer.initialize(np.random.default_rng(0).normal(size=(500, 8)))
    >>> quantizer(np.zeros((2, 8), "float32")).codes.shape
    TensorShape([2, 3])
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        slices: Slices,
        *,
        assignment: str = "nearest",
        gradient: str = "straight_through",
        learning: str = "gradient",
        codebook: str = "table",
        factor_dim: int | None = None,
        initialization: str = "kmeans",
        rotation: bool = False,
        balance: float = 0.0,
        ema_decay: float = 0.99,
        temperature: float = 1.0,
        exploration: float = 1.0,
        seed: int = 0,
        usage_momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        options = {
            "assignment": assignment,
            "gradient": gradient,
            "learning": learning,
            "codebook": codebook,
            "factor_dim": factor_dim,
            "initialization": initialization,
            "rotation": rotation,
            "balance": balance,
            "ema_decay": ema_decay,
            "temperature": temperature,
            "exploration": exploration,
        }
        super().__init__(
            levels, codebook_size, dim, slices, options, seed, usage_momentum, **kwargs
        )
        self.balance = balance
        self.ema_decay = ema_decay
        self.temperature = temperature
        self.initial_exploration = exploration
        self.estimate = ESTIMATORS[gradient]
        self.soft = gradient == "gumbel"
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the statistics, and what `gumbel` draws its noise with."""
        if self.built:
            return
        super().build(input_shape)
        if self.soft:
            self.exploration = self.add_weight(
                name="exploration",
                shape=(),
                initializer=keras.initializers.Constant(self._options["exploration"]),
                trainable=False,
            )
            self.noise = keras.random.SeedGenerator(self.seed)

    def call(self, vectors: Any, training: bool | None = None) -> QuantizerOutput:
        """Quantizes vectors, float `[B, D]`.

        Args:
            vectors: What to quantize.
            training: Whether the batch is one of training: codes count as use of the codebook,
                moving averages and offsets move, `sinkhorn` and `gumbel` choose the codes.

        Returns:
            `QuantizerOutput`. `inputs` and `vectors` are the pairs that a codebook and commitment
            loss compares, `[B, L, W]`: at the level's slice, or in the space of `factor_dim`.
        """
        soft = bool(training) and self.soft
        space = self._space(soft)
        turned = space.turn(vectors)
        residual, total = turned, 0.0
        codes, inputs, residuals, costs = [], [], [turned], []
        for level in range(self.levels):
            query, matched = space.query(residual, level)
            fits = space.scores(matched if soft else ops.stop_gradient(matched), level)
            if soft:
                noise = self.exploration * gumbel_noise(ops.shape(fits), self.noise)
                # The score is half of the cost, and softmax doesn't see what all codes share.
                fits = 2 * fits / self.temperature + noise
            code = self.assignment.choose(fits) if training and not soft else best(fits)
            value = ops.take(space.values[level], code, axis=0)
            if soft:
                value = soft_vectors(fits, space.values[level], value)
            elif self.projection is not None:
                value = self.estimate(query, value)
            if self.projection is not None:
                value = self.projection.up(value, level)
            elif not soft:
                value = ops.stop_gradient(value)
            value = space.place(value, level)
            total = total + value
            # A later level sees the code vectors before it as given; they learn from their own
            # loss term alone (RQ-VAE). A projection has no other way to learn what it loses.
            residual = residual - (
                value if self.projection is not None else ops.stop_gradient(value)
            )
            codes.append(code)
            inputs.append(space.widen(query))
            residuals.append(residual)
            if training and self.balance:
                costs.append(mean_cost(matched, ops.transpose(space.keys[level])))
        stacked, compared = ops.stack(codes, axis=1), ops.stack(inputs, axis=1)
        if training:
            self._learn(stacked, ops.stop_gradient(compared), costs)
        if self.projection is None and not soft:
            total = self.estimate(turned, total)
        return QuantizerOutput(
            codes=stacked,
            quantized=space.turn_back(total),
            inputs=compared,
            vectors=self.lookup(space.books, stacked),
            residual_norms=ops.norm(ops.stop_gradient(ops.stack(residuals, axis=1)), axis=-1),
        )

    def last_fits(self, inputs: Any) -> Any:
        """Returns how well each code of the last level fits what that level quantizes.

        Args:
            inputs: float `[B, W]`, the last of `QuantizerOutput.inputs`.

        Returns:
            float `[B, K]`, half of the squared distance that is left, negative, but for a part
            that is the same for every code. The best is the code that `call` chose, unless
            `sinkhorn` or `gumbel` did. The gradient reaches `inputs` alone.
        """
        space = self._space()
        matched = space.match(inputs[:, : self.code_widths[-1]])
        return space.scores(matched, self.levels - 1)

    def _space(self, soft: bool = False) -> CodeSpace:
        """Returns the codes of all levels; `soft` lets the choice's gradient reach them."""
        return read_codes(
            self.codebooks,
            self.offsets,
            dim=self.dim,
            slices=self.slices,
            widths=self.code_widths,
            rotation=self.rotation,
            projection=self.projection,
            compare_unit=self.assignment.unit,
            soft=soft,
        )

    def _learn(self, codes: Any, inputs: Any, costs: list[Any]) -> None:
        """Takes a training batch into the statistics, moving averages and offsets."""
        self.observe(codes)
        if self.ema:
            books, counts = moving_average(
                ops.convert_to_tensor(self.codebooks),
                self.counts,
                self.places(codes),
                inputs,
                self.ema_decay,
            )
            self.codebooks.assign(books)
            self.counts.assign(counts)
        if self.balance:
            step = ops.expand_dims(ops.stop_gradient(ops.stack(costs)), -1) * (self.usage - 1.0)
            self.offsets.assign(self.offsets + self.balance * step)

    def ranked_codes(self, vectors: Any, count: int) -> Any:
        """Returns the best code tuples of each vector by a beam search over the levels.

        Args:
            vectors: float `[B, D]`.
            count: Tuples per vector, at most K ** L.

        Returns:
            int32 `[B, count, L]`, all different: first the codes that `call` assigns, then by
            rising distance between the vector and what the codes stand for. The beam is `count`
            wide, so a tuple whose prefix is far worse than its end may be passed over.

        Raises:
            ValueError: There are not `count` tuples.
        """
        check_count(count, self.codebook_size, self.levels)
        space = self._space()
        return nearest_tuples(space, space.turn(vectors), count)

    def decode(self, codes: Any) -> Any:
        """Returns the sum of the code vectors, float `[B, D]`, for codes int `[B, L]`."""
        space = self._space()
        found = self.lookup(space.books, ops.cast(codes, "int32"))
        total: Any = 0.0
        for level, width in enumerate(self.code_widths):
            total = total + space.place(space.up(found[:, level, :width], level), level)
        return space.turn_back(total)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "slices": [list(ends) for ends in self.slices]}
