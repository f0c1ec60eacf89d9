"""RecommenderTrainer: trains the generative recommender on one catalogue's semantic IDs."""

from components.recommender_trainer.component import RecommenderTrainer

__all__ = ["RecommenderTrainer"]
