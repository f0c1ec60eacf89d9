"""The common structure of quantizers that pick code vectors for slices of a vector."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from sid_tfx.quantizers.assignment import ASSIGNMENTS, best, scores, unit
from sid_tfx.quantizers.beam import check_count, grow_beams, take_beams
from sid_tfx.quantizers.codebook import CODEBOOKS
from sid_tfx.quantizers.fitting import check_vectors, fit_codebooks, fit_rotation
from sid_tfx.quantizers.gradient import ESTIMATORS
from sid_tfx.quantizers.gumbel import gumbel_noise, soft_vectors
from sid_tfx.quantizers.learning import mean_cost, moving_average
from sid_tfx.quantizers.options import check_options
from sid_tfx.quantizers.projection import Projection
from sid_tfx.quantizers.quantizer import Quantizer, QuantizerOutput
from sid_tfx.quantizers.revival import split_busy_codes
from sid_tfx.quantizers.rotation import OrthogonalRotation


class _Codes(NamedTuple):
    """The codes of all levels as a call reads them, a list entry a level.

    Attributes:
        books: What is looked up, float `[L, K, W]`; gradients reach the codebook.
        values: The same, float `[K, w]` each.
        keys: What vectors are compared to, transposed, float `[w, K]` each.
        halves: (|key|^2 + offset) / 2, float `[K]` each.
    """

    books: Any
    values: list[Any]
    keys: list[Any]
    halves: list[Any]


class VectorQuantizer(Quantizer):
    """Base of quantizers with codebooks: level l quantizes a slice of what is left of the vector.

    Each level takes its slice of the vector less the code vectors of the levels before it, picks a
    code, and takes the code vector away in turn. Slices that are the whole vector make a residual
    quantizer, disjoint ones a product quantizer. A vector is approximated by the sum of its code
    vectors, each at its slice.

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
        exploration: Of `gumbel`: scale of the noise at the start. The weight `exploration` holds
            it; a callback may lower it to 0.
        seed: Seed of the initial codebooks and of noise.
        usage_momentum: Share of the running code counts that a batch keeps.

    Raises:
        ValueError: An argument is out of its range, not one of the names, or contradicts another.
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        slices: list[tuple[int, int]],
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
        super().__init__(levels, codebook_size, dim, seed, usage_momentum, **kwargs)
        self._options: dict[str, Any] = {
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
        widths = [stop - start for start, stop in slices]
        check_options(self._options, widths)
        self.slices = slices
        self.balance = balance
        self.ema_decay = ema_decay
        self.temperature = temperature
        self.code_widths = [factor_dim or width for width in widths]
        self.assignment = ASSIGNMENTS[assignment]
        self.estimate = ESTIMATORS[gradient]
        self.soft = gradient == "gumbel"
        self.ema = learning == "ema"
        self.codebook = CODEBOOKS[codebook](
            _random_codes(slices, self.code_widths, codebook_size, seed),
            self.code_widths,
            trainable=not self.ema,
            name="codebook",
        )
        self.projection = Projection(widths, factor_dim, seed) if factor_dim else None
        self.rotation = OrthogonalRotation(dim) if rotation else None
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the statistics, and what the options add to them."""
        if self.built:
            return
        super().build(input_shape)
        shape = (self.levels, self.codebook_size)
        self.offsets = self.add_weight(
            name="offsets", shape=shape, initializer="zeros", trainable=False
        )
        if self.ema:
            self.counts = self.add_weight(
                name="counts", shape=shape, initializer="ones", trainable=False
            )
        if self.soft:
            self.exploration = self.add_weight(
                name="exploration",
                shape=(),
                initializer=keras.initializers.Constant(self._options["exploration"]),
                trainable=False,
            )
            self.noise = keras.random.SeedGenerator(self.seed)

    @property
    def codebooks(self) -> Any:
        """The code vectors, float `[L, K, W]`, zero past a level's width; of a table, the weight.

        W is the size of the widest slice, or `factor_dim`.
        """
        return self.codebook.vectors

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
        rotation = self._rotation()
        turned = vectors if rotation is None else ops.matmul(vectors, rotation)
        space = self._read(soft)
        residual, total = turned, 0.0
        codes, inputs, residuals, costs = [], [], [turned], []
        for level in range(self.levels):
            query, matched = self._query(residual, level)
            fits = self._scores(space, matched if soft else ops.stop_gradient(matched), level)
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
            value = self._place(value, level)
            total = total + value
            # A later level sees the code vectors before it as given; they learn from their own
            # loss term alone (RQ-VAE). A projection has no other way to learn what it loses.
            residual = residual - (
                value if self.projection is not None else ops.stop_gradient(value)
            )
            codes.append(code)
            inputs.append(self._widen(query))
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
            quantized=total if rotation is None else ops.matmul(total, ops.transpose(rotation)),
            inputs=compared,
            vectors=self._lookup(space, stacked),
            residual_norms=ops.norm(ops.stop_gradient(ops.stack(residuals, axis=1)), axis=-1),
        )

    def _rotation(self) -> Any:
        """Returns the rotation, float `[D, D]`; None where there is none."""
        return None if self.rotation is None else self.rotation.matrix()

    def _read(self, soft: bool = False) -> _Codes:
        """Returns the codes of all levels; `soft` lets the choice's gradient reach them."""
        books = ops.convert_to_tensor(self.codebooks)
        compared = unit(books) if self.assignment.unit else books
        keys = compared if soft else ops.stop_gradient(compared)
        halves = (ops.sum(ops.square(keys), axis=-1) + self.offsets) / 2
        books = books if self.projection is None else compared
        return _Codes(
            books,
            self._cut(ops.unstack(books, axis=0)),
            [ops.transpose(key) for key in self._cut(ops.unstack(keys, axis=0))],
            ops.unstack(halves, axis=0),
        )

    def _cut(self, books: Iterable[Any]) -> list[Any]:
        """Cuts each level's code vectors `[K, W]` to the level's width."""
        widest = max(self.code_widths)
        return [
            book if width == widest else book[:, :width]
            for book, width in zip(books, self.code_widths, strict=True)
        ]

    def _widen(self, vectors: Any) -> Any:
        """Pads a level's vectors `[B, w]` with zeros to `[B, W]`."""
        missing = max(self.code_widths) - vectors.shape[-1]
        return ops.pad(vectors, ((0, 0), (0, missing))) if missing else vectors

    def _query(self, residual: Any, level: int) -> tuple[Any, Any]:
        """Returns what a level quantizes, and the same as codes are matched to it, `[B, w]`."""
        query = self._slice(residual, level)
        if self.projection is not None:
            query = self.projection.down(query, level)
        matched = unit(query) if self.assignment.unit else query
        return (query if self.projection is None else matched), matched

    def _slice(self, vectors: Any, level: int) -> Any:
        """Returns a level's slice of vectors `[..., D]`."""
        start, stop = self.slices[level]
        return vectors if stop - start == self.dim else vectors[..., start:stop]

    def _place(self, values: Any, level: int) -> Any:
        """Returns `[..., D]`: `values` at the level's slice, zeros elsewhere."""
        start, stop = self.slices[level]
        if stop - start == self.dim:
            return values
        around = ((0, 0),) * (len(values.shape) - 1)
        return ops.pad(values, (*around, (start, self.dim - stop)))

    def _scores(self, space: _Codes, matched: Any, level: int) -> Any:
        return scores(matched, space.keys[level], space.halves[level])

    def _lookup(self, space: _Codes, codes: Any) -> Any:
        """Returns code vectors, float `[B, L, W]`, by one gather for all levels."""
        books = ops.reshape(space.books, (-1, space.books.shape[-1]))
        return ops.take(books, self.places(codes), axis=0)

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
        rotation, space = self._rotation(), self._read()
        turned = vectors if rotation is None else ops.matmul(vectors, rotation)
        residuals = turned[:, None]
        codes = ops.zeros((ops.shape(vectors)[0], 1, 0), dtype="int32")
        for level, values in enumerate(space.values):
            if self.projection is not None:
                values = self.projection.up(values, level)
            _, matched = self._query(residuals[:, 0], level)
            greedy = best(self._scores(space, matched, level))
            parts = self._slice(residuals, level)
            costs = ops.sum(ops.square(residuals), axis=-1, keepdims=True)
            costs = costs - 2 * ops.matmul(parts, ops.transpose(values))
            costs = costs + ops.sum(ops.square(values), axis=-1)
            codes, parents, last = grow_beams(codes, costs, greedy, count)
            chosen = self._place(ops.take(values, last, axis=0), level)
            residuals = take_beams(residuals, parents) - chosen
        return codes

    def decode(self, codes: Any) -> Any:
        """Returns the sum of the code vectors, float `[B, D]`, for codes int `[B, L]`."""
        found = self._lookup(self._read(), ops.cast(codes, "int32"))
        total: Any = 0.0
        for level, width in enumerate(self.code_widths):
            value = found[:, level, :width]
            if self.projection is not None:
                value = self.projection.up(value, level)
            total = total + self._place(value, level)
        rotation = self._rotation()
        return total if rotation is None else ops.matmul(total, ops.transpose(rotation))

    def initialize(self, vectors: np.ndarray, seed: int = 0) -> None:
        """Sets the codebooks from data, level after level, each on what is left.

        The first time also sets the projections and the rotation; later they stay as learned.

        Args:
            vectors: float `[N, D]`; a few thousand are enough.
            seed: Seed of k-means.

        Raises:
            ValueError: No vectors, a wrong size, or values that are not finite.
        """
        data = check_vectors(vectors, self.dim)
        if self._options["initialization"] != "random":
            first = not float(ops.convert_to_numpy(self.initialized))
            if self.rotation is not None:
                if first:
                    self.rotation.assign(fit_rotation(data, self.slices, self.codebook_size, seed))
                data = data @ ops.convert_to_numpy(self.rotation.matrix())
            fit = fit_codebooks(
                data,
                self.slices,
                self.codebook_size,
                seed,
                initialization=self._options["initialization"],
                spherical=self.assignment.unit,
                factor_dim=self._options["factor_dim"],
                maps=None if first or self.projection is None else self.projection.maps(),
            )
            self.codebook.assign(fit.books)
            self.offsets.assign(fit.offsets)
            if self.projection is not None and fit.maps is not None:
                self.projection.assign(*fit.maps)
        self.usage.assign(np.ones(self.usage.shape, "float32"))
        if self.ema:
            self.counts.assign(np.ones(self.counts.shape, "float32"))
        self.initialized.assign(1.0)

    def revive(self, threshold: float = 0.05, seed: int = 0) -> int:
        """Splits the most used codes onto dead ones.

        A dead code becomes a copy of a busy one, moved by a small step, and takes half of its use
        (LBG splitting). It needs no data, so it works between any two steps of training.

        Args:
            threshold: A code below this share of even use is dead.
            seed: Seed of the step.

        Returns:
            Number of codes moved, all levels together.

        Raises:
            ValueError: A linear codebook can't reach the new places.
        """
        usage = ops.convert_to_numpy(self.usage).copy()
        books = ops.convert_to_numpy(self.codebooks).copy()
        offsets = ops.convert_to_numpy(self.offsets).copy()
        dead = usage < threshold
        if not dead.any():
            return 0
        rng = np.random.default_rng(seed)
        for level, width in enumerate(self.code_widths):
            sources = split_busy_codes(usage[level], books[level, :, :width], threshold, rng)
            offsets[level] = offsets[level, sources]
        self.codebook.move(books, dead)
        self.usage.assign(usage)
        self.offsets.assign(offsets)
        if self.ema:
            # Old counts would hold the codes where the averages last saw them.
            self.counts.assign(np.where(dead, usage, self.counts))
        return int(dead.sum())

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, without `slices`."""
        return {**super().get_config(), **self._options}


def _random_codes(
    slices: list[tuple[int, int]], widths: list[int], size: int, seed: int
) -> np.ndarray:
    """Returns random code vectors `[L, K, W]`, half as wide where a slice comes a further time."""
    width = max(widths)
    codes = np.random.default_rng(seed).normal(size=(len(slices), size, width))
    seen = [slices[:level].count(part) for level, part in enumerate(slices)]
    scale = 0.5 ** np.array(seen) / np.sqrt(widths)
    inside = np.arange(width) < np.array(widths)[:, None]
    return (codes * (inside * scale[:, None])[:, None]).astype("float32")
