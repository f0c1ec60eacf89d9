"""SASRec learns, is causal, trains the same twice and ranks what its scores say."""

import keras
import numpy as np
import pytest

from sid_tfx.baselines import SasRec
from sid_tfx.datasets.batches import SequenceBatches, TargetBatches
from sid_tfx.datasets.sequences import Sequences

pytestmark = pytest.mark.unit

ADS = 30
SMALL = {"hidden_size": 16, "num_layers": 1, "mlp_size": 32, "max_history": 8, "dropout": 0.0}
AFTER = np.random.default_rng(9).permutation(ADS)


def walks(users=150, length=8):
    """Every ad is followed by one other, always."""
    rows = np.empty((users, length), np.int32)
    rows[:, 0] = np.random.default_rng(0).integers(0, ADS, users)
    for t in range(1, length):
        rows[:, t] = AFTER[rows[:, t - 1]]
    offsets = np.arange(users + 1) * length
    return Sequences(offsets, rows.ravel(), np.tile(np.arange(length), users))


def train(epochs, seed=0, users=150, **changes):
    model = SasRec(ADS, **{**SMALL, **changes}, seed=seed)
    # Few steps are done before a graph is made.
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=users < 100, jit_compile=False)
    batches = SequenceBatches(walks(users), 8, 256, seed)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained():
    return train(12)


def test_it_learns_what_follows_what(trained):
    first = trained.recommend(np.arange(ADS)[:, None] + 1, 1)[:, 0]
    assert (first == AFTER).mean() > 0.9


def test_loss_equals_cross_entropy_position_by_position(trained):
    rows = np.array([[3, 1, 4], [9, 2, 0], [7, 0, 0]])
    losses = []
    for history in rows:
        ads = history[history > 0]
        for t in range(1, len(ads)):
            scores = np.asarray(trained.scores(ads[None, :t]))[0]
            losses.append(np.log(np.exp(scores).sum()) - scores[ads[t] - 1])
    loss = trained.compute_loss(x=rows, y_pred=trained(rows))
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-4)


def test_states_never_see_the_future(trained):
    one, two = (np.asarray(trained(np.array([rows]))) for rows in ([3, 4, 5, 6], [3, 4, 9, 6]))
    np.testing.assert_allclose(one[:, :2], two[:, :2], atol=1e-6)
    assert np.abs(one[:, 2:] - two[:, 2:]).max() > 1e-3


@pytest.mark.parametrize("filter_seen", [False, True])
def test_lists_follow_the_scores(trained, filter_seen):
    histories = np.random.default_rng(1).integers(0, ADS + 1, (300, 6)).astype(np.int32)
    histories[0] = 0
    rows = trained.recommend(histories, ADS + 2, filter_seen)
    scores = np.asarray(trained.scores(histories))
    for user in (0, 5, 299):
        order = np.argsort(-scores[user], kind="stable")
        seen = set(histories[user] - 1) if filter_seen else set()
        want = [ad for ad in order if ad not in seen]
        assert rows[user].tolist() == want + [-1] * (ADS + 2 - len(want))


def test_padding_and_old_ads_change_nothing(trained):
    want = trained.recommend(np.array([[5, 9, 2]]), 5)
    for padded in ([0, 5, 0, 9, 2], [5, 9, 2, 0, 0]):
        assert trained.recommend(np.array([padded]), 5).tolist() == want.tolist()
    long = np.arange(1, 21)[None]
    np.testing.assert_allclose(trained.scores(long), trained.scores(long[:, -8:]), atol=1e-5)


def test_a_seed_gives_the_same_model(tmp_path):
    one, again = (train(1, seed=1, users=40, dropout=0.2) for _ in range(2))
    other = SasRec(ADS, **SMALL, seed=2)
    rows = np.array([[1, 2, 3]])
    np.testing.assert_allclose(one.scores(rows), again.scores(rows), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(one.scores(rows)) - np.asarray(other.scores(rows))).max() > 1e-3
    one.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.scores(rows), one.scores(rows))


def test_targets_of_histories_are_refused():
    model = SasRec(ADS, **SMALL)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    with pytest.raises(ValueError, match=r"SasRec trains on whole .*SequenceBatches"):
        model.fit(TargetBatches(walks(20), 8, 256), verbose=0)


def test_no_users(trained):
    assert trained.recommend(np.zeros((0, 20), np.int32), 10).shape == (0, 10)


@pytest.mark.parametrize(("name", "value"), [("num_layers", 0), ("dropout", 1.0)])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        SasRec(ADS, **{**SMALL, name: value})
