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
    """An oracle: a moving average of the weights after each batch, from the first step on."""

    def __init__(self, momentum, first_step):
        super().__init__()
        self.momentum, self.first_step, self.batches = momentum, first_step, 0
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        now = [np.array(weight) for weight in self.model.trainable_variables]
        self.batches += 1
        old = self.values if self.batches > self.first_step else now
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


@pytest.mark.parametrize("parts", [1, 4])
def test_averages_are_what_is_left_at_the_end(parts):
    # Of as many steps, however many batches make one.
    averages = Averages(0.9 ** (1 / parts), parts)
    model = train(40, 0, [averages], epochs=3, ema_momentum=0.9, parts=parts)[0]
    for got, want in zip(model.trainable_variables, averages.values, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_step_is_made_of_several_batches_and_the_rate_falls_to_the_end():
    class Steps(keras.callbacks.Callback):
        """When the weights moved."""

        def __init__(self):
            super().__init__()
            self.seen, self.moved = None, []

        def on_train_batch_end(self, batch, logs=None):
            now = np.array(self.model.trainable_variables[0])
            self.moved.append(self.seen is not None and (now != self.seen).any())
            self.seen = now

    steps = Steps()
    model = train(60, 0, [steps], epochs=4, ema_momentum=None, parts=4, warmup_share=0.1)[0]
    assert len(steps.moved) > 8
    assert np.flatnonzero(steps.moved).tolist() == list(range(3, len(steps.moved), 4))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02 * 1e-2, rel=0.2)


@pytest.mark.parametrize("ema_momentum", [None, 0.9])
def test_the_epoch_that_ranks_best_is_kept(ema_momentum):
    model, validation, log = train(300, 200, epochs=6, patience=1, ema_momentum=ema_momentum)
    best = max(log["val_ndcg@10"])
    rows = GenerativeRecommender(SidDecoder(model, 20)).recommend(validation.histories(12), 10)
    got = ranking_metrics(target_ranks(rows, validation.targets))["ndcg@10"]
    assert got == pytest.approx(best, abs=1e-6)
