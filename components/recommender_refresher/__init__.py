"""RecommenderRefresher: a trained recommender on a catalogue that has changed."""

from components.recommender_refresher.component import RecommenderRefresher

__all__ = ["RecommenderRefresher"]
