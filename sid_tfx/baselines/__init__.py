"""Methods that a recommender must beat before it is worth serving."""

from sid_tfx.baselines.item_knn import ItemKnn
from sid_tfx.baselines.popularity import Popularity
from sid_tfx.baselines.sasrec import SasRec

__all__ = ["ItemKnn", "Popularity", "SasRec"]
