"""Time, event type and weight: their ids, in NumPy and in a graph, in splits and batches."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sid_tfx.context import EventContext
from sid_tfx.datasets.batches import SequenceBatches, TargetBatches
from sid_tfx.datasets.sequences import Sequences, global_time, leave_one_out
from sid_tfx.export.context import histories_in_context

pytestmark = pytest.mark.unit

EVERYTHING = EventContext(time=True, events=("view", "buy"), weight=True)


def oracle(context, rows, timestamps, events, weights):
    """Ids by their definition, of one history of known ads."""
    found = []
    for t, row in enumerate(rows):
        gap = timestamps[t] - timestamps[t - 1] if t else 0
        known = t and timestamps[t] and timestamps[t - 1]
        time = 0 if not known else 1 if gap < 1 else min(29, 2 + int(gap).bit_length() - 1)
        event = 1 + context.events.index(events[t]) if events[t] in context.events else 0
        steps = math.floor(2 * math.log2(1 + weights[t]) + 1e-6) if weights[t] else -1
        found.append([row + 1, time, event, min(31, 1 + steps)])
    return found


TYPES = (tf.int32, tf.int64, tf.string, tf.float32)


def block(rows, dtype):
    """Lists of different lengths as one tensor; unknown ads and values after them."""
    padding = {tf.int32: -1, tf.string: ""}.get(dtype, 0)
    length = max(1, *map(len, rows))
    filled = [[*row, *[padding] * (length - len(row))] for row in rows]
    return tf.constant(np.array(filled), dtype)


# Weights between the edges, so that the oracle needs no rounding rule.
USERS = st.lists(
    st.lists(
        st.tuples(
            st.integers(-1, 9),
            st.one_of(st.just(0), st.integers(1, 2**40)),
            st.sampled_from(["", "view", "buy", "share"]),
            st.sampled_from([0.0, 0.1, 0.5, 1.2, 7.0, 1e6]),
        ),
        max_size=6,
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=40)
@given(USERS, st.integers(1, 8))
def test_graph_and_oracle_agree_on_padded_histories_with_unknown_ads(users, width):
    columns = [[list(column) for column in zip(*user, strict=True)] or [[]] * 4 for user in users]
    found = histories_in_context(EVERYTHING, *map(block, zip(*columns, strict=True), TYPES), width)
    found = found.numpy()
    assert found.shape == (len(users), width, 4)
    for history, user in zip(found, users, strict=True):
        known = [event for event in user if event[0] >= 0][-width:]
        rows, *beside = zip(*known, strict=True) if known else ([], [], [], [])
        assert history[: len(known)].tolist() == oracle(EVERYTHING, rows, *beside)
        assert not history[len(known) :].any()


def log(users=9, seed=0, unknown=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, users)
    count = lengths.sum()
    return {
        "user_ids": np.repeat(np.arange(users), lengths),
        "rows": rng.integers(0, 50, count),
        "timestamps": rng.integers(1, 10**6, count),
        "events": rng.choice(["view", "buy", ""], count),
        "weights": rng.choice([0.0, 0.5, 3.0], count).astype(np.float32),
    }


def test_numpy_and_graph_agree_on_splits():
    splits = leave_one_out(**log(40)).in_context(EVERYTHING)
    inputs = splits.test.inputs
    here = splits.test.histories(6)
    users = [
        np.split(values, inputs.offsets[1:-1])
        for values in (inputs.rows, inputs.timestamps, inputs.events, inputs.weights)
    ]
    there = histories_in_context(EVERYTHING, *map(block, users, TYPES), 6)
    np.testing.assert_array_equal(here, there)
    assert len(np.unique(here[..., 1])) > 3
    assert set(np.unique(here[..., 2])) == {0, 1, 2}


def test_each_split_has_the_events_of_its_rows():
    columns = log(30)
    known = set(zip(*(columns[name].tolist() for name in list(columns)[1:]), strict=True))
    for split in (leave_one_out(**columns), global_time(**columns)):
        for part in (split.train, split.validation.inputs, split.test.inputs):
            values = (part.rows, part.timestamps, part.events, part.weights)
            assert set(zip(*(value.tolist() for value in values), strict=True)) <= known
            assert len(part.rows)


def test_the_targets_own_event_is_never_seen():
    columns = {
        "user_ids": np.zeros(4, int),
        "rows": np.arange(4),
        "timestamps": np.array([10, 20, 30, 40]),
        "events": np.array(["view", "view", "view", "buy"]),
    }
    later = {**columns, "timestamps": np.array([10, 20, 30, 10**9])}
    for one, other in zip(
        (leave_one_out(**columns).test, leave_one_out(**columns).validation),
        (leave_one_out(**later).test, leave_one_out(**later).validation),
        strict=True,
    ):
        histories = [part.in_context(EVERYTHING).histories() for part in (one, other)]
        np.testing.assert_array_equal(*histories)
        assert 2 not in histories[0][..., 2]


@pytest.mark.parametrize("split", [leave_one_out, global_time])
def test_context_does_not_depend_on_the_order_of_the_log(split):
    columns = log(30, seed=3)
    # One ad at one time, twice, as two kinds of event.
    columns = {name: np.concatenate([values, values[:5]]) for name, values in columns.items()}
    columns["events"][-5:] = "share"
    order = np.random.default_rng(4).permutation(len(columns["rows"]))
    one = split(**columns).in_context(EVERYTHING)
    other = split(**{name: values[order] for name, values in columns.items()})
    other = other.in_context(EVERYTHING)
    np.testing.assert_array_equal(one.train.padded(9), other.train.padded(9))
    np.testing.assert_array_equal(one.test.histories(), other.test.histories())


def test_one_target_batches_have_the_context_beside_the_rows():
    columns = log(60, seed=1)
    plain = leave_one_out(**columns).train
    for one, other in zip(
        TargetBatches(plain, 6, 24),
        TargetBatches(plain.in_context(EVERYTHING), 6, 24),
        strict=True,
    ):
        np.testing.assert_array_equal(other[0][..., 0], one[0])
        assert other[0].shape == (*one[0].shape, 4)
        assert other[0].dtype == np.int32
        assert not other[0][one[0] == 0].any(), "nothing is known past the last ad"
        assert not other[0][:, 0, 1].any(), "the first ad that is read has no gap"
        np.testing.assert_array_equal(other[1:], one[1:])


def test_packed_batches_have_the_context_that_each_history_has_alone():
    columns = log(60, seed=1)
    plain = leave_one_out(**columns).train
    known = plain.in_context(EVERYTHING)
    batches = SequenceBatches(known, 6, 24)
    found = []
    for (one,), (other,) in zip(SequenceBatches(plain, 6, 24), batches, strict=True):
        np.testing.assert_array_equal(other["histories"][..., 0], one["histories"])
        np.testing.assert_array_equal(other["segments"], one["segments"])
        assert other["histories"].dtype == np.int32
        for row, part in zip(other["histories"], other["segments"], strict=True):
            assert not row[part == 0].any(), "nothing is known past the last ad"
            found += [row[part == number].tolist() for number in range(1, part.max() + 1)]
    pieces = batches.pieces
    want = [row[row[:, 0] > 0].tolist() for row in pieces.padded(6)]
    assert sorted(found) == sorted(want)


def left_of(batches):
    """Histories that are left after deletion, as lists of what is read of each ad."""
    if isinstance(batches, SequenceBatches):
        return [
            row[part == number]
            for (batch,) in (batches[i] for i in range(len(batches)))
            for row, part in zip(batch["histories"], batch["segments"], strict=True)
            for number in range(1, part.max() + 1)
        ]
    found = [row for i in range(len(batches)) for row in batches[i][0]]
    return [row[row[:, 0] > 0] for row in found]


@pytest.mark.parametrize("kind", [SequenceBatches, TargetBatches])
def test_a_gap_in_training_is_the_one_to_the_ad_that_deletion_left_before(kind):
    rng = np.random.default_rng(5)
    lengths = rng.integers(2, 12, 80)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    count = int(offsets[-1])
    # Every event has an ad of its own, by which it is found again.
    train = Sequences(
        offsets,
        np.arange(count, dtype=np.int32),
        # Unknown ones among them.
        np.where(rng.random(count) < 0.1, 0, 10**9 + np.cumsum(rng.integers(0, 10**5, count))),
        rng.choice(["view", "buy", ""], count),
        rng.choice([0.0, 0.5, 3.0], count).astype(np.float32),
        EVERYTHING,
    )
    batches = kind(train, 8, 64, deletion=0.5)
    for _ in range(2):
        histories = left_of(batches)
        assert len(histories) > 20
        for history in histories:
            rows = history[:, 0] - 1
            beside = (train.timestamps[rows], train.events[rows], train.weights[rows])
            assert history.tolist() == oracle(EVERYTHING, rows.tolist(), *beside)
        skipped = [np.diff(history[:, 0]) > 1 for history in histories]
        assert sum(gap.sum() for gap in skipped) > 20
        batches.on_epoch_end()


def test_serving_and_training_read_one_gap_alike():
    times = np.array([100, 104, 10000, 10004])
    train = Sequences(np.array([0, 4]), np.arange(4, dtype=np.int32), times)
    context = EventContext(time=True)
    batches = SequenceBatches(train.in_context(context), 4, 4, deletion=0.5)
    seen = set()
    for _ in range(30):
        for history in left_of(batches):
            seen.add(tuple(map(tuple, history.tolist())))
            kept = times[history[:, 0] - 1]
            np.testing.assert_array_equal(history[:, 1:], context.encode(kept[None])[0])
        batches.on_epoch_end()
    assert ((2, 0), (4, 15)) in seen


def test_a_log_says_what_can_be_read():
    columns = log(30)
    train = leave_one_out(**columns).train
    assert EventContext.of(train) == EventContext(True, ("buy", "view"), True)
    assert EventContext.of(train, ["event"]).fields == ("event",)
    assert EventContext.of(train, []).sizes == ()
    del columns["events"]
    columns["weights"][:] = 2.0
    train = leave_one_out(**columns).train
    # One weight for all says nothing, unless it is asked for.
    assert EventContext.of(train).fields == ("time",)
    assert EventContext.of(train, ["weight"]).fields == ("weight",)
    with pytest.raises(ValueError, match=r"names 'event', but no training event has .* 'weight'"):
        EventContext.of(train, ["time", "event"])
    with pytest.raises(ValueError, match="got 'place'"):
        EventContext.of(train, ["place"])
    with pytest.raises(ValueError, match="none empty"):
        EventContext(events=("view", ""))
    with pytest.raises(ValueError, match="different"):
        EventContext(events=("view", "view"))


def test_the_most_frequent_event_types_are_told_apart():
    kinds = np.array([f"kind{i}" for i in range(80) for _ in range(i + 1)])
    train = Sequences(
        np.array([0, len(kinds)]), np.zeros(len(kinds), np.int32), np.arange(len(kinds)), kinds
    )
    context = EventContext.of(train, ["event"])
    assert sorted(context.events) == sorted(f"kind{i}" for i in range(16, 80))
    assert EventContext.from_dict(context.to_dict()) == context


@settings(deadline=None, max_examples=30)
@given(
    arrays.arrays(np.float32, 8, elements=st.floats(0, 2**20, width=32, allow_subnormal=False)).map(
        np.sort
    )
)
def test_weights_keep_their_order(weights):
    ids = EventContext(weight=True).encode(np.zeros((1, 8), int), weights=weights[None])[0, :, 0]
    assert (np.diff(ids) >= 0).all()
    assert ((ids > 0) == (weights > 0)).all()
    assert ids.max() < EventContext(weight=True).sizes[0]


def test_values_that_are_no_numbers_are_unknown():
    weights = np.array([[np.nan, np.inf, -1.0]], np.float32)
    rows, times, events = np.array([[0, 1, 2]]), np.zeros((1, 3), int), np.array([[""] * 3])
    here = EVERYTHING.encode(times, events, weights)
    assert here[0, :, 2].tolist() == [0, 31, 0]
    columns = (tf.constant(times, tf.int64), tf.constant(events), tf.constant(weights))
    there = histories_in_context(EVERYTHING, tf.constant(rows, tf.int32), *columns, 3)
    np.testing.assert_array_equal(there[..., 1:], here)
