"""What training keeps: moving averages where they are asked for, and the best epoch."""

import keras
import numpy as np
import pytest

from pipeline.config import RecommenderConfig
from pipeline.recommender_training import train_recommender
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender
from sid_tfx.metrics.ranking import ranking_metrics, target_ranks
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import SMALL, make_catalog, walks

pytestmark = pytest.mark.unit


class Averages(keras.callbacks.Callback):
    """An oracle: a moving average of the weights after each step."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum, self.values = momentum, []

    def on_train_batch_end(self, batch, logs=None):
        now = [np.array(weight) for weight in self.model.trainable_variables]
        old = self.values or now
        self.values = [
            self.momentum * a + (1 - self.momentum) * b for a, b in zip(old, now, strict=True)
        ]


def train(users, validation_users, callbacks=(), **settings):
    splits, _ = walks(users, length=6)
    model = SidRecommender.for_catalog(make_catalog(), **SMALL)
    validation = splits.validation.sample(validation_users)
    chosen = RecommenderConfig(batch_positions=256, learning_rate=1e-2, **settings)
    history = train_recommender(
        model, splits.train, validation, chosen, seed=0, callbacks=callbacks, verbose=0
    )
    return model, validation, history.history


def test_averages_are_what_is_left_at_the_end():
    averages = Averages(0.9)
    model = train(40, 0, [averages], epochs=3, ema_momentum=0.9)[0]
    for got, want in zip(model.trainable_variables, averages.values, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_rate_falls_to_the_end():
    model = train(60, 0, epochs=20, ema_momentum=None, warmup_share=0.1)[0]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02 * 1e-2, rel=0.2)


@pytest.mark.parametrize("ema_momentum", [None, 0.9])
def test_the_epoch_that_ranks_best_is_kept(ema_momentum):
    model, validation, log = train(300, 200, epochs=6, patience=1, ema_momentum=ema_momentum)
    best = max(log["val_ndcg@10"])
    rows = GenerativeRecommender(SidDecoder(model, 20)).recommend(validation.histories(12), 10)
    got = ranking_metrics(target_ranks(rows, validation.targets))["ndcg@10"]
    assert got == pytest.approx(best, abs=1e-6)
