"""What training keeps: averages where they are asked for, the best epoch, hybrid's weights."""

import keras
import numpy as np
import pytest

from pipeline.config import RecommenderConfig
from pipeline.recommender_training import set_hybrid_weights, train_recommender
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender
from sid_tfx.metrics.ranking import ranking_metrics, target_ranks
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog, walks

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


def test_configured_weights_stay_and_the_others_are_chosen():
    splits, _ = walks(60)
    table = SuccessorTable.count(splits.train, ADS)
    model = SidRecommender.for_catalog(make_catalog(), table, **SMALL)
    hybrid = GenerativeRecommender(SidDecoder(model, 10), "hybrid")

    def weights(users, **given):
        model.dense_weight.assign(1.0)
        model.successor_weight.assign(1.0)
        settings = RecommenderConfig(**given)
        trials = set_hybrid_weights(hybrid, splits.validation.sample(users), settings)
        return float(model.dense_weight), float(model.successor_weight), len(trials)

    dense, followed, trials = weights(60, dense_weight=0.3)
    assert (dense, trials) == (pytest.approx(0.3), 8)
    assert followed > 1
    assert weights(60, dense_weight=0.5, successor_weight=3.0) == (0.5, 3.0, 0)
    # What nothing trained is not chosen.
    assert weights(60, arguments={"dense_loss_weight": 0})[::2] == (0.0, 8)
    # Nobody is held out: what isn't configured stays as it is.
    assert weights(0, successor_weight=3.0) == (1.0, 3.0, 0)
