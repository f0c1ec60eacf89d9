"""The codes of all levels and each level's part of a vector, as one call reads them."""

from typing import Any, NamedTuple

from keras import ops

from sid_tfx.directions import to_unit
from sid_tfx.quantizers.projection import Projection
from sid_tfx.quantizers.rotation import OrthogonalRotation
from sid_tfx.quantizers.slices import Slices


class CodeSpace(NamedTuple):
    """Where a level finds what it quantizes, compares it to codes and puts code vectors.

    Lists have an entry a level. w is the size of a level's code vectors, W the widest.

    Attributes:
        dim: D, size of a vector.
        slices: First dimension and end of what each level quantizes of a turned vector.
        rotation: What turns vectors, float `[D, D]`; None where nothing does.
        projection: Maps to the space where codes are matched, and back; None where there is none.
        compare_unit: Whether queries and codes are compared at length 1.
        books: What is looked up, float `[L, K, W]`; gradients reach the codebook.
        values: The same, float `[K, w]` each.
        keys: What queries are compared to, transposed, float `[w, K]` each.
        halves: (|key|^2 + offset) / 2, float `[K]` each.
    """

    dim: int
    slices: Slices
    rotation: Any
    projection: Projection | None
    compare_unit: bool
    books: Any
    values: list[Any]
    keys: list[Any]
    halves: list[Any]

    def turn(self, vectors: Any) -> Any:
        """Returns vectors `[B, D]` as the slices are cut out of them."""
        return vectors if self.rotation is None else ops.matmul(vectors, self.rotation)

    def turn_back(self, vectors: Any) -> Any:
        """Undoes `turn`."""
        if self.rotation is None:
            return vectors
        return ops.matmul(vectors, ops.transpose(self.rotation))

    def query(self, residual: Any, level: int) -> tuple[Any, Any]:
        """Returns what a level quantizes, and the same as codes are matched to it, `[B, w]`."""
        query = self.slice(residual, level)
        if self.projection is not None:
            query = self.projection.down(query, level)
        matched = self.match(query)
        return (query if self.projection is None else matched), matched

    def match(self, query: Any) -> Any:
        """Returns what a level quantizes as codes are compared with it, `[B, w]`."""
        return to_unit(query) if self.compare_unit else query

    def scores(self, matched: Any, level: int) -> Any:
        """Returns how well each code of a level fits, float `[B, K]`; more is better.

        The score is half of what a squared distance leaves after the part that is the same for
        every code: -cost / 2 = vector . key - (|key|^2 + offset) / 2 + constant.
        """
        return ops.matmul(matched, self.keys[level]) - self.halves[level]

    def up(self, values: Any, level: int) -> Any:
        """Returns what code vectors `[..., w]` stand for in the level's slice."""
        return values if self.projection is None else self.projection.up(values, level)

    def slice(self, vectors: Any, level: int) -> Any:
        """Returns a level's slice of vectors `[..., D]`."""
        start, stop = self.slices[level]
        return vectors if stop - start == self.dim else vectors[..., start:stop]

    def place(self, values: Any, level: int) -> Any:
        """Returns `[..., D]`: `values` at the level's slice, zeros elsewhere."""
        start, stop = self.slices[level]
        if stop - start == self.dim:
            return values
        around = ((0, 0),) * (len(values.shape) - 1)
        return ops.pad(values, (*around, (start, self.dim - stop)))

    def widen(self, vectors: Any) -> Any:
        """Pads a level's vectors `[B, w]` with zeros to `[B, W]`."""
        missing = self.books.shape[-1] - vectors.shape[-1]
        return ops.pad(vectors, ((0, 0), (0, missing))) if missing else vectors


def read_codes(
    codebooks: Any,
    offsets: Any,
    *,
    dim: int,
    slices: Slices,
    widths: list[int],
    rotation: OrthogonalRotation | None,
    projection: Projection | None,
    compare_unit: bool,
    soft: bool,
) -> CodeSpace:
    """Returns the codes of all levels, ready to be compared and looked up.

    Args:
        codebooks: Code vectors, float `[L, K, W]`.
        offsets: What is added to the cost of each code, float `[L, K]`.
        dim: D, size of a vector.
        slices: First dimension and end of what each level quantizes.
        widths: Size of a code vector at each level.
        rotation: What turns vectors before they are cut in slices; None for nothing.
        projection: Maps to the space where codes are matched, and back; None for none.
        compare_unit: Whether queries and codes are compared at length 1.
        soft: Whether the gradient of the choice reaches the codes.
    """
    books = ops.convert_to_tensor(codebooks)
    compared = to_unit(books) if compare_unit else books
    keys = compared if soft else ops.stop_gradient(compared)
    halves = (ops.sum(ops.square(keys), axis=-1) + offsets) / 2
    books = books if projection is None else compared
    return CodeSpace(
        dim=dim,
        slices=slices,
        rotation=None if rotation is None else rotation.matrix(),
        projection=projection,
        compare_unit=compare_unit,
        books=books,
        values=_cut(books, widths),
        keys=[ops.transpose(key) for key in _cut(keys, widths)],
        halves=ops.unstack(halves, axis=0),
    )


def _cut(books: Any, widths: list[int]) -> list[Any]:
    """Returns each level's code vectors `[K, w]` out of `[L, K, W]`."""
    widest = books.shape[-1]
    return [
        book if width == widest else book[:, :width]
        for book, width in zip(ops.unstack(books, axis=0), widths, strict=True)
    ]
