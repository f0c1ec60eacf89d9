"""Code diversity: code vectors lie in groups of one size, so that no few codes attract all ads."""

from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import kmeans_plusplus

from sid_tfx.losses.contrastive import MASKED, check_temperature

_ITERATIONS = 20


@keras.saving.register_keras_serializable(package="sid_tfx")
class CodeDiversity(keras.layers.Layer):
    """L_Div of LETTER: a code vector in use is pulled to its group's and pushed from all others.

    At each level, constrained k-means parts the K code vectors into groups of one size, and
    -1/B sum_i log(exp(<e_i, e_+>) / sum_{j != i} exp(<e_i, e_j>)), with e_i the vector that row i
    was assigned and e_+ another one of its group. LETTER draws e_+ at random; here the loss is the
    mean over the group, which is what that draw is on average. Levels are averaged.

    Groups are a weight that `refresh` sets, which `sid_tfx.callbacks.DiversityRefresh` calls while
    code vectors move. Before the first call the loss is 0.

    Args:
        levels: L.
        codebook_size: K.
        clusters: Groups per level.
        temperature: tau, divides the products. LETTER has 1.

    Raises:
        ValueError: `levels` is below 1, `temperature` is not above 0, or `clusters` leaves no group
            of two.

    Example:

    >>> codebooks = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
    >>> diversity = CodeDiversity(levels=2, codebook_size=16, clusters=4)
    >>> diversity.refresh(codebooks)
    >>> float(diversity(codebooks, np.array([[0, 3], [5, 3]]))) > 0
    True

    Reference:
        LETTER, arXiv 2405.07314, diversity regularization.
    """

    built: bool

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        clusters: int = 10,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}.")
        check_clusters(clusters, codebook_size)
        self.levels = levels
        self.codebook_size = codebook_size
        self.clusters = clusters
        self.temperature = check_temperature(temperature)
        self.groups = self.add_weight(
            name="groups",
            shape=(levels, codebook_size),
            initializer="zeros",
            dtype="int32",
            trainable=False,
        )
        self.groups.assign(np.full((levels, codebook_size), -1, "int32"))
        self.built = True

    def refresh(self, codebooks: Any, seed: int = 0) -> None:
        """Groups the code vectors anew.

        Args:
            codebooks: float `[L, K, D]`.
            seed: Seed of the first group centers.
        """
        vectors = ops.convert_to_numpy(codebooks)
        self.groups.assign(
            np.stack(
                [equal_clusters(v, self.clusters, seed + level) for level, v in enumerate(vectors)]
            )
        )

    def call(self, codebooks: Any, codes: Any) -> Any:
        """Returns a scalar.

        Args:
            codebooks: float `[L, K, D]`.
            codes: int `[B, L]`, what the rows were assigned.
        """
        books = ops.convert_to_tensor(codebooks)
        groups = ops.convert_to_tensor(self.groups)
        itself = ops.eye(self.codebook_size, dtype="bool")
        together = ops.logical_and(
            ops.equal(groups[:, :, None], groups[:, None]),
            ops.logical_and(ops.greater_equal(groups, 0)[:, :, None], ops.logical_not(itself)),
        )
        together = ops.cast(together, books.dtype)
        logits = ops.matmul(books, ops.transpose(books, (0, 2, 1))) / self.temperature
        normalizer = ops.logsumexp(ops.where(itself, MASKED, logits), axis=-1)
        count = ops.sum(together, axis=-1)
        pull = ops.sum(books * ops.matmul(together, books), axis=-1) / self.temperature
        per_code = ops.where(
            ops.greater(count, 0), normalizer - pull / ops.maximum(count, 1.0), 0.0
        )
        # All rows of one code have one loss, so the batch is only counted.
        share = ops.mean(ops.one_hot(codes, self.codebook_size, dtype=books.dtype), axis=0)
        return ops.sum(share * per_code) / self.levels

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "levels": self.levels,
            "codebook_size": self.codebook_size,
            "clusters": self.clusters,
            "temperature": self.temperature,
        }


def check_clusters(clusters: int, codebook_size: int, name: str = "clusters") -> None:
    """Checks that each group of codes has two.

    Args:
        clusters: Groups per level.
        codebook_size: K.
        name: What the caller's argument is called.

    Raises:
        ValueError: There are too many groups, or none.
    """
    if not 1 <= clusters <= codebook_size // 2:
        raise ValueError(
            f"{name} must be in [1, {codebook_size // 2}], so that each has two of the "
            f"{codebook_size} codes, got {clusters}."
        )


def equal_clusters(vectors: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Groups vectors by k-means whose clusters differ in size by at most one.

    Each round gives every vector a place in a cluster by an optimal assignment, so this is for
    hundreds of vectors, such as a codebook, not for a catalogue.

    Args:
        vectors: float `[K, D]`.
        clusters: Clusters, at most K.
        seed: Seed of the first centers.

    Returns:
        int32 `[K]`, the cluster of each vector.
    """
    vectors = np.asarray(vectors, "float64")
    size = len(vectors)
    centers = kmeans_plusplus(vectors, clusters, random_state=seed)[0]
    places = np.arange(size) % clusters
    found = np.full(size, -1)
    for _ in range(_ITERATIONS):
        # Squared distance less what is the same for all centers.
        cost = (centers**2).sum(axis=1) - 2.0 * vectors @ centers.T
        rows, columns = linear_sum_assignment(cost[:, places])
        assigned = np.empty(size, int)
        assigned[rows] = places[columns]
        if (assigned == found).all():
            break
        found = assigned
        counts = np.bincount(found, minlength=clusters)
        centers = np.zeros_like(centers)
        np.add.at(centers, found, vectors)
        centers /= counts[:, None]
    return found.astype("int32")
