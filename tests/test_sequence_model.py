"""What models of histories share: `fit` in one order, and nothing that is taken and not read."""

import random

import keras
import numpy as np
import pytest

from sid_tfx.baselines import SasRec
from sid_tfx.datasets.batches import SequenceBatches
from sid_tfx.recommender import SidRecommender
from sid_tfx.validation import RankingValidation
from tests.recommender_fixtures import ADS, SMALL, make_catalog, walks

pytestmark = pytest.mark.unit

ROWS = np.array([[5, 9, 2], [1, 7, 0]])


def make(kind):
    if kind == "sasrec":
        model = SasRec(ADS, hidden_size=16, num_layers=1, mlp_size=16, max_history=12, dropout=0.0)
    else:
        model = SidRecommender.for_catalog(make_catalog(), **SMALL)
    # Few steps are done before a graph is made.
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return model


class Fixed:
    """Finds the targets of the validation users the better, the later it is asked."""

    def __init__(self, targets):
        self.targets, self.asked = targets, 0

    def recommend(self, histories, k, filter_seen):
        self.asked += 1
        found = np.full((len(histories), k), -1)
        found[: self.asked, 0] = self.targets[: self.asked]
        return found


def test_validation_reads_as_much_of_a_history_as_it_is_told():
    validation = walks(120)[0].validation
    assert RankingValidation(validation).histories.shape[1] == 20
    assert RankingValidation(validation, max_history=3).histories.shape[1] == 3


@pytest.mark.parametrize("kind", ["sasrec", "item_level"])
def test_batches_come_in_the_order_of_their_seed_whatever_python_draws(kind):
    def trained(state):
        random.seed(state)
        model = make(kind)
        batches = SequenceBatches(walks(120)[0].train, 12, 96)
        return model.fit(batches, verbose=0).history["loss"]

    assert trained(1) == pytest.approx(trained(2), rel=1e-6)


def test_an_order_that_is_asked_for_is_kept_to():
    losses = []
    for state in (1, 2):
        random.seed(state)
        batches = SequenceBatches(walks(120)[0].train, 12, 96)
        losses += make("sasrec").fit(batches, shuffle=True, verbose=0).history["loss"]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_early_stopping_sees_the_ranking_wherever_it_stands():
    splits, _ = walks(20)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs.get("val_ndcg@10"))
    )
    stop = keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", restore_best_weights=True)
    ranking = RankingValidation(splits.validation, ranked=Fixed(splits.validation.targets))
    model = make("sasrec")
    model.fit(ROWS, epochs=3, callbacks=[watch, stop, ranking], verbose=0)
    assert seen == pytest.approx([0.05, 0.1, 0.15])
    assert (stop.best, stop.best_epoch) == (pytest.approx(0.15), 2)
    # One callback, as Keras takes it, too.
    assert "val_ndcg@10" in model.fit(ROWS, callbacks=ranking, verbose=0).history


@pytest.mark.parametrize("kind", ["sasrec", "item_level"])
def test_what_the_loss_does_not_read_is_refused(kind):
    model = make(kind)
    for given in ({"loss": "mse"}, {"loss_weights": [1.0]}):
        with pytest.raises(ValueError, match=rf"can't take {next(iter(given))}: .* own"):
            model.compile("sgd", **given)
    for given in ({"sample_weight": np.ones(2)}, {"class_weight": {1: 2.0}}):
        with pytest.raises(ValueError, match=rf"can't take {next(iter(given))}: .* count alike"):
            model.fit(ROWS, **given, verbose=0)
    with pytest.raises(ValueError, match="can't take sample_weight"):
        model.train_on_batch(ROWS, np.array([1, 2]), sample_weight=np.ones(2))


@pytest.mark.parametrize("kind", ["sasrec", "item_level"])
def test_a_compiled_model_comes_back_ready_to_train_on(kind, tmp_path):
    model = make(kind)
    model.compile(keras.optimizers.Adam(0.03), run_eagerly=True)
    model.fit(ROWS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 1
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.03)
    losses = [m.fit(ROWS, epochs=2, verbose=0).history["loss"] for m in (model, loaded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
