"""Quantizers whose codebooks are fitted to data and revived."""

from typing import Any

import numpy as np
from keras import ops

from sid_tfx.quantizers.assignment import ASSIGNMENTS
from sid_tfx.quantizers.codebook import CODEBOOKS, random_codes
from sid_tfx.quantizers.fitting import check_vectors, fit_codebooks, fit_rotation
from sid_tfx.quantizers.options import check_options
from sid_tfx.quantizers.projection import Projection
from sid_tfx.quantizers.quantizer import Quantizer
from sid_tfx.quantizers.revival import split_busy_codes
from sid_tfx.quantizers.rotation import OrthogonalRotation
from sid_tfx.quantizers.slices import Slices, check_slices


class FittedQuantizer(Quantizer):
    """Base that holds the codebooks of slices, sets them from data and revives dead codes.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
        slices: First dimension and end of what each level quantizes.
        options: Those of `VectorQuantizer`, name -> value.
        seed: Seed of the initial codebooks.
        usage_momentum: Share of the running code counts that a batch keeps.

    Raises:
        ValueError: An argument is out of its range, not one of the names, or contradicts another.
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        slices: Slices,
        options: dict[str, Any],
        seed: int = 0,
        usage_momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(levels, codebook_size, dim, seed, usage_momentum, **kwargs)
        check_slices(slices, levels, dim)
        widths = [stop - start for start, stop in slices]
        check_options(options, widths)
        self._options = options
        factor_dim = options["factor_dim"]
        # A file holds lists.
        self.slices = [(start, stop) for start, stop in slices]
        self.code_widths = [factor_dim or width for width in widths]
        self.assignment = ASSIGNMENTS[options["assignment"]]
        self.ema = options["learning"] == "ema"
        self.codebook = CODEBOOKS[options["codebook"]](
            random_codes(self.slices, self.code_widths, codebook_size, seed),
            self.code_widths,
            trainable=not self.ema,
            name="codebook",
        )
        self.projection = Projection(widths, factor_dim, seed) if factor_dim else None
        self.rotation = OrthogonalRotation(dim) if options["rotation"] else None

    def build(self, input_shape: Any = None) -> None:
        """Creates the statistics, the offsets and what moving averages add to them."""
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

    @property
    def fits_data(self) -> bool:
        """False for `initialization="random"`: codebooks stay as they were drawn."""
        return bool(self._options["initialization"] != "random")

    @property
    def codebooks(self) -> Any:
        """The code vectors, float `[L, K, W]`, zero past a level's width; of a table, the weight.

        W is the size of the widest slice, or `factor_dim`.
        """
        return self.codebook.vectors

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
        if self.fits_data:
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
        split_busy_codes(usage, books, offsets, self.code_widths, threshold, seed)
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
