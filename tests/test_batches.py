"""Batches that train on every event: several histories in a row, or one target each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.baselines import SasRec
from sid_tfx.datasets.batches import SequenceBatches, TargetBatches
from sid_tfx.datasets.sequences import Sequences
from sid_tfx.layers import ContextEmbedding
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog

pytestmark = pytest.mark.unit


def random_sequences(seed, count=200, longest=40):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(offsets, np.arange(offsets[-1], dtype=np.int32), np.zeros(offsets[-1]))


def everything(batches):
    return [batches[i] for i in range(len(batches))]


def histories_of(batches):
    """The histories of packed batches, as lists of catalogue rows."""
    return [
        (row[part == number] - 1).tolist()
        for (batch,) in everything(batches)
        for row, part in zip(batch["histories"], batch["segments"], strict=True)
        for number in range(1, part.max() + 1)
    ]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16), st.integers(2, 20), st.integers(40, 300))
def test_packed_batches_hold_every_history_once_in_every_epoch(seed, longest, positions):
    sequences = random_sequences(seed)
    batches = SequenceBatches(sequences, longest, positions, seed)
    want = []
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        # Cut from the newest end; a single ad teaches nothing.
        pieces = [list(range(max(start, e - longest), e)) for e in range(end, start, -longest)]
        want += [piece for piece in pieces if len(piece) > 1]
    for _ in range(2):
        assert sorted(histories_of(batches)) == sorted(want)
        batches.on_epoch_end()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.3]))
def test_packed_batches_have_one_shape_and_padding_at_the_end_of_rows(seed, deletion):
    batches = SequenceBatches(random_sequences(seed), 16, 200, seed, deletion)
    size = len(batches)
    for _ in range(3):
        assert len(batches) == size
        for (batch,) in everything(batches):
            histories, segments = batch["histories"], batch["segments"]
            assert histories.dtype == segments.dtype == np.int32
            assert histories.shape == segments.shape == everything(batches)[0][0]["segments"].shape
            assert histories.size <= 200
            assert ((histories > 0) == (segments > 0)).all()
            inside = segments > 0
            assert (np.diff(inside.astype(int), axis=1) <= 0).all()
            steps = np.diff(segments, axis=1)[inside[:, 1:]]
            assert np.isin(steps, [0, 1]).all()
        batches.on_epoch_end()


def test_packed_batches_are_nearly_full():
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.geometric(0.15, 3000) + 1)])
    log = Sequences(offsets, np.zeros(offsets[-1], np.int32), np.zeros(offsets[-1]))
    for deletion, least in ((0.0, 0.94), (0.2, 0.9)):
        batches = SequenceBatches(log, 50, 2048, deletion=deletion)
        assert np.mean([batch["segments"] > 0 for (batch,) in everything(batches)]) > least


@pytest.mark.parametrize("seed", range(4))
def test_a_log_that_deletion_may_empty_still_makes_batches(seed):
    log = Sequences(np.array([0, 2]), np.array([4, 5], np.int32), np.array([1, 2]))
    batches = SequenceBatches(log, seed=seed, deletion=0.5)
    assert len(batches) == 1
    assert batches[0][0]["histories"].ndim == 2


def test_deletion_leaves_ads_out_at_random_and_their_histories_in_order():
    log = random_sequences(0)
    batches, again = (SequenceBatches(log, 16, 320, 3, 0.3) for _ in range(2))
    epochs = []
    for _ in range(2):
        found = histories_of(batches)
        assert found == histories_of(again)
        flat = np.concatenate(found)
        assert len(flat) == len(set(flat))
        assert len(flat) / len(log.rows) == pytest.approx(0.7, abs=0.04)
        owner = np.repeat(np.arange(len(log)), log.lengths)
        for history in found:
            assert len(history) > 1
            assert len(set(owner[history])) == 1
            assert history == sorted(history)
        epochs.append(found)
        batches.on_epoch_end()
        again.on_epoch_end()
    assert epochs[0] != epochs[1]


def test_one_target_batches_lack_ads_and_no_target():
    whole, thinned, again = (
        TargetBatches(random_sequences(0), 16, 64, 3, share) for share in (0.0, 0.3, 0.3)
    )
    lost = total = 0
    for (all_ads, targets), (ads, same_targets), (same_ads, _) in zip(
        *map(everything, (whole, thinned, again)), strict=True
    ):
        np.testing.assert_array_equal(same_targets, targets)
        np.testing.assert_array_equal(ads, same_ads)
        for left, history in zip(ads, all_ads, strict=True):
            history = history[history > 0]
            count = (left > 0).sum()
            assert np.isin(left[:count], history).all()
            assert (np.diff(left[:count]) > 0).all(), "in order, and moved to the left"
            assert left[count - 1] == history[-1], "no history is empty: the newest ad stays"
            lost += len(history) - count
            total += len(history) - 1
    assert lost / total == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("kind", [SequenceBatches, TargetBatches])
def test_a_seed_fixes_the_order_and_epochs_differ(kind):
    def epochs(seed):
        batches = kind(random_sequences(0), 16, 64, seed=seed)
        first = str(everything(batches))
        batches.on_epoch_end()
        return first, str(everything(batches))

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(2)[0]
    assert epochs(1)[0] != epochs(1)[1]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(2, 16), min_size=1, max_size=12), st.integers(0, 2**16))
def test_the_first_two_one_target_batches_vary_as_all_do(lengths, seed):
    # Keras reads the shape that it holds all batches to from the first two.
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = Sequences(offsets, np.arange(offsets[-1], dtype=np.int32), np.zeros(offsets[-1]))
    batches = TargetBatches(sequences, max_history=16, positions=32, seed=seed)
    # In each of the epochs, for a second call of `fit` begins with a later one.
    for _ in range(4):
        shapes = np.array([x.shape for x, _ in everything(batches)])
        varies = (shapes != shapes[0]).any(axis=0)
        assert ((shapes[:2] != shapes[0]).any(axis=0) == varies).all()
        batches.on_epoch_end()


def test_one_length_makes_one_target_batches_of_one_width_with_the_same_histories():
    widths, held = [], []
    for lengths in (None, [16]):
        batches = TargetBatches(random_sequences(0), 16, 64, lengths=lengths)
        found = [x for x, _ in everything(batches)]
        widths.append({x.shape[1] for x in found})
        held.append(sorted(row[row > 0].tolist() for x in found for row in x))
    assert len(widths[0]) > 1
    assert widths[1] == {16}
    assert held[0] == held[1]
    for wrong in ([8], [16, 8], [8, 16, 32]):
        with pytest.raises(ValueError, match="lengths must rise to max_history=16"):
            TargetBatches(random_sequences(0), 16, 64, lengths=wrong)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=6),
    st.integers(2, 7),
)
def test_one_target_per_example(histories, longest):
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    rows = np.array([row for history in histories for row in history], np.int32)
    train = Sequences(offsets, rows, np.arange(len(rows)))
    want = sorted(
        (tuple(np.array(history[max(0, t - longest) : t]) + 1), history[t] + 1)
        for history in histories
        for t in range(1, len(history))
    )
    if not want:
        with pytest.raises(ValueError, match="nothing to learn"):
            TargetBatches(train, longest, 16)
        return
    batches = TargetBatches(train, longest, 16)
    got = []
    for index in range(len(batches)):
        x, y = batches[index]
        assert x.shape[1] <= longest
        got += [(tuple(row[row > 0]), target) for row, target in zip(x, y, strict=True)]
    assert sorted(got) == want


@pytest.mark.parametrize("kind", ["item_level", "flat", "sasrec"])
def test_a_packed_row_gives_each_history_the_states_and_the_loss_that_it_gets_alone(kind):
    if kind == "sasrec":
        model = SasRec(ADS, hidden_size=16, num_heads=2, mlp_size=32, max_history=12)
    else:
        model = SidRecommender.for_catalog(make_catalog(), **SMALL, architecture=kind)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        # Biases and position vectors too, that are zero or small at first.
        variable.assign(rng.normal(0, 0.2, variable.shape))
    offsets = np.array([0, 5, 7, 15, 18, 29])
    rows = rng.integers(0, ADS, offsets[-1]).astype(np.int32)
    log = Sequences(offsets, rows, np.arange(len(rows)))
    packed = SequenceBatches(log, max_history=12, positions=48)[0][0]
    together = np.asarray(model(packed))
    per_ad = together.shape[1] // packed["segments"].shape[1]
    alone = log.padded(12)
    want = np.asarray(model(alone))
    found = 0
    for row, part in enumerate(packed["segments"]):
        for number in range(1, part.max() + 1):
            columns = np.flatnonzero(part == number)
            length = len(columns)
            history = packed["histories"][row, columns]
            place = np.flatnonzero((alone[:, :length] == history).all(1) & (log.lengths == length))
            begin = columns[0] * per_ad
            got = together[row, begin : begin + length * per_ad]
            np.testing.assert_allclose(got, want[place[0], : length * per_ad], atol=2e-5)
            found += 1
    assert found == len(log)
    losses = [
        float(model.compute_loss(x=x, y_pred=model(x), training=False)) for x in (packed, alone)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_every_history_of_a_row_loses_its_context_by_itself():
    layer = ContextEmbedding((3, 3), 8, dropout=0.5, seed=1)
    ids = np.ones((50, 8, 2), np.int32)
    segments = np.repeat([[1, 1, 1, 2, 2, 3, 3, 0]], 50, axis=0)
    out = np.asarray(layer(ids, training=True, segments=segments))
    assert np.isclose(out[:, 0], out[:, 1]).all()
    assert np.isclose(out[:, 3], out[:, 4]).all()
    assert 0 < np.isclose(out[:, 0], out[:, 3]).all(axis=-1).mean() < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SequenceBatches(random_sequences(0), 1), "max_history"),
        (lambda: SequenceBatches(random_sequences(0), 50, 10), "positions"),
        (lambda: TargetBatches(random_sequences(0), 50, 10), "positions"),
        (lambda: SequenceBatches(random_sequences(0), deletion=1.0), "deletion"),
        (lambda: SequenceBatches(Sequences(np.array([0, 1]), np.zeros(1), np.zeros(1))), "nothing"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
