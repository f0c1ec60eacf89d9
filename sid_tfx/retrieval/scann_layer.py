"""TensorFlow Recommenders' ScaNN layer, with the options of ScaNN that it leaves out."""

import uuid

import tensorflow as tf
from scann.scann_ops.py import scann_ops
from scann.scann_ops.py.scann_ops import ScannState
from tensorflow_recommenders.layers import factorized_top_k

STATE = (
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
    "dataset",
)
"""The tensors that a trained searcher is made of, in the order of `ScannState`."""

_SEARCHER = (STATE[-1], *STATE[:-1])
"""The same in the order that the op which makes a searcher of them takes."""


class ScannLayer(factorized_top_k.ScaNN):
    """A tree of partitions, asymmetric hashing in them, exact reordering of the best.

    TFRS trains the hash codes for squared distance alone and fixes how much of the tree a search
    reads when the tree is built. Here they may weigh errors along the vector more, as inner
    products want it, and the same tree is searched with any effort.

    Args:
        k: Default number of results.
        num_leaves: Partitions.
        dimensions_per_block: Dimensions hashed together.
        anisotropic_threshold: Score above which errors along the vector weigh more; None for
            squared distance.
        training_iterations: Steps of the k-means that makes the partitions.
        reordered: Candidates scored exactly at the end, where a search does not say.
    """

    def __init__(
        self,
        k: int,
        num_leaves: int,
        dimensions_per_block: int,
        anisotropic_threshold: float | None,
        training_iterations: int,
        reordered: int,
    ) -> None:
        super().__init__(k=k)

        def build(candidates: tf.Tensor) -> scann_ops.ScannSearcher:
            noise = float("nan") if anisotropic_threshold is None else anisotropic_threshold
            return (
                scann_ops.builder(candidates, k, "dot_product")
                .tree(num_leaves, num_leaves, training_iterations=training_iterations)
                .score_ah(dimensions_per_block, anisotropic_quantization_threshold=noise)
                .reorder(reordered)
                .build(shared_name=f"{self.name}/{uuid.uuid4()}")
            )

        self._build_searcher = build
        self._shared_name = f"scann-{uuid.uuid4()}"

    def search(
        self, queries: tf.Tensor, k: int, leaves: int, reordered: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and int32 rows, [B, <= k] each; (NaN, 0) where nothing was found.

        Args:
            queries: float32 [B, D].
            k: Results, at most `reordered`.
            leaves: Partitions to read.
            reordered: Candidates to score exactly.
        """
        state = [getattr(self._serialized_searcher, name) for name in _SEARCHER]
        # ScaNN's own `searcher_from_module` gives none, and then the searcher is named after its
        # node in the graph: of two indices in one model, one would answer for both.
        handle = scann_ops.tensors_to_scann(*state, shared_name=self._shared_name)
        searcher = scann_ops.ScannSearcher(handle)
        found = searcher.search_batched_parallel(queries, k, reordered, leaves)
        return found.distances, found.indices

    def get_state(self) -> dict[str, tf.Tensor]:
        """Returns the trained searcher, by the names of `STATE`."""
        return {
            name: tf.convert_to_tensor(getattr(self._serialized_searcher, name)) for name in STATE
        }

    def set_state(self, state: dict[str, tf.Tensor]) -> None:
        """Takes a trained searcher over: TFRS only ever trains one anew, which differs."""
        self._serialized_searcher = ScannState([state[name] for name in STATE])
        self._shared_name = f"scann-{uuid.uuid4()}"

    @property
    def dataset(self) -> tf.Tensor:
        """The indexed vectors, float32 [N, D]."""
        return self._serialized_searcher.dataset
