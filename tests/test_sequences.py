"""Splits without leakage and batches that train on every event."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.datasets.sequences import (
    SequenceBatches,
    Sequences,
    TargetBatches,
    global_time,
    leave_one_out,
)

pytestmark = pytest.mark.unit


def log(draw_seed, users=12, events=120):
    rng = np.random.default_rng(draw_seed)
    return (
        np.array([f"u{i}" for i in rng.integers(0, users, events)]),
        rng.integers(-1, 30, events),
        # Few distinct times, so that ties are common.
        rng.integers(0, 40, events),
    )


def as_lists(sequences):
    return [
        sequences.rows[a:b].tolist()
        for a, b in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    ]


def ordered(users, rows, times):
    """user -> [(time, row), ...] in order: the oracle."""
    result = {}
    for user, row, time in zip(users.tolist(), rows.tolist(), times.tolist(), strict=True):
        if row >= 0:
            result.setdefault(user, []).append((time, row))
    return {user: sorted(events) for user, events in sorted(result.items())}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.integers(1, 200))
def test_leave_one_out_against_a_loop(seed, events):
    users, rows, times = log(seed, events=events)
    splits = leave_one_out(users, rows, times)
    truth = ordered(users, rows, times)
    judged = {u: e for u, e in truth.items() if len(e) >= 3}
    want = [[r for _, r in (e[:-2] if u in judged else e)] for u, e in truth.items()]
    assert as_lists(splits.train) == want
    for part, end in ((splits.validation, -2), (splits.test, -1)):
        assert part.users.tolist() == list(judged)
        assert part.targets.tolist() == [e[end][1] for e in judged.values()]
        assert part.target_timestamps.tolist() == [e[end][0] for e in judged.values()]
        assert as_lists(part.inputs) == [[r for _, r in e[:end]] for e in judged.values()]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16))
def test_order_of_the_input_does_not_matter(seed):
    users, rows, times = log(seed)
    shuffle = np.random.default_rng(seed).permutation(len(rows))
    for split in (leave_one_out, global_time):
        first, second = (
            split(users, rows, times),
            split(*(x[shuffle] for x in (users, rows, times))),
        )
        assert as_lists(first.train) == as_lists(second.train)
        assert first.test.targets.tolist() == second.test.targets.tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16))
def test_global_time_against_a_loop(seed):
    users, rows, times = log(seed)
    splits = global_time(users, rows, times, 0.2, 0.2)
    truth = ordered(users, rows, times)
    all_times = np.sort(np.concatenate([[t for t, _ in e] for e in truth.values()]))
    first, second = all_times[len(all_times) * 6 // 10], all_times[len(all_times) * 8 // 10]
    assert as_lists(splits.train) == [[r for t, r in e if t < first] for e in truth.values()]
    for part, start, end in (
        (splits.validation, first, second),
        (splits.test, second, np.inf),
    ):
        want = []
        for user, events in truth.items():
            later = [i for i, (t, _) in enumerate(events) if start <= t < end]
            if later and later[0] > 0:
                want.append((user, events[later[0]][1], [r for _, r in events[: later[0]]]))
        assert part.users.tolist() == [w[0] for w in want]
        assert part.targets.tolist() == [w[1] for w in want]
        assert as_lists(part.inputs) == [w[2] for w in want]


def test_users_with_few_events_only_train():
    splits = leave_one_out(np.array(["a", "b", "b"]), np.array([4, 5, 6]), np.arange(3))
    assert as_lists(splits.train) == [[4], [5, 6]]
    assert len(splits.test) == len(splits.validation) == 0
    assert splits.test.histories().shape == (0, 20)


def test_padded_keeps_the_newest_on_the_left():
    sequences = Sequences(np.array([0, 4, 4, 5]), np.array([7, 8, 9, 3, 0]), np.zeros(5))
    assert sequences.padded(3).tolist() == [[9, 10, 4], [0, 0, 0], [1, 0, 0]]
    assert sequences.padded(2, np.array([2])).tolist() == [[1, 0]]
    assert sequences.popularity(10).tolist() == [1, 0, 0, 1, 0, 0, 0, 1, 1, 1]


def random_sequences(seed, count=200, longest=40):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(offsets, np.arange(offsets[-1], dtype=np.int32), np.zeros(offsets[-1]))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**16))
def test_batches_hold_every_event_once(seed):
    sequences = random_sequences(seed)
    batches = SequenceBatches(sequences, max_history=16, positions=64, seed=seed)
    seen = []
    for i in range(len(batches)):
        (rows,) = batches[i]
        assert rows.dtype == np.int32
        assert rows.size <= 64
        filled = rows > 0
        assert (filled[:, 0] & filled[:, 1]).all()
        # Right-padded, and each row a run of consecutive events.
        assert (np.diff(filled.astype(int), axis=1) <= 0).all()
        assert (np.diff(rows, axis=1)[filled[:, 1:]] == 1).all()
        seen += (rows[filled] - 1).tolist()
    assert len(seen) == len(set(seen))
    # Only pieces of a single ad, from which nothing can be learned, are left out.
    lengths = sequences.lengths
    assert len(seen) == len(sequences.rows) - (lengths % 16 == 1).sum()


def test_one_length_makes_batches_of_one_shape_with_the_same_histories():
    sequences = random_sequences(0)
    shapes, held = [], []
    for lengths in (None, [16]):
        batches = SequenceBatches(sequences, max_history=16, positions=64, lengths=lengths)
        rows = [batches[i][0] for i in range(len(batches))]
        shapes.append({batch.shape[1] for batch in rows})
        held.append(sorted(row[row > 0].tolist() for batch in rows for row in batch))
    assert len(shapes[0]) > 1
    assert shapes[1] == {16}
    assert held[0] == held[1]
    for wrong in ([8], [16, 8], [8, 16, 32]):
        with pytest.raises(ValueError, match="lengths must rise to max_history=16"):
            SequenceBatches(sequences, max_history=16, positions=64, lengths=wrong)


def test_long_histories_keep_a_full_newest_piece():
    sequences = Sequences(np.array([0, 10]), np.arange(10, dtype=np.int32), np.zeros(10))
    batches = SequenceBatches(sequences, max_history=4, positions=4)
    rows = sorted(batches[i][0][0].tolist() for i in range(len(batches)))
    assert rows == [[1, 2, 0, 0], [3, 4, 5, 6], [7, 8, 9, 10]]


@pytest.mark.parametrize("kind", [SequenceBatches, TargetBatches])
def test_deletion_leaves_ads_out_at_random_and_moves_no_target(kind):
    whole, thinned = (kind(random_sequences(0), 16, 64, 3, share) for share in (0.0, 0.3))
    again = kind(random_sequences(0), 16, 64, 3, 0.3)
    lost = total = 0
    for index in range(len(whole)):
        all_ads, *target = whole[index]
        some_ads, *same_target = thinned[index]
        np.testing.assert_array_equal(same_target, target)
        np.testing.assert_array_equal(some_ads, again[index][0])
        assert np.isin(some_ads, [0, *all_ads.ravel()]).all()
        assert (some_ads[some_ads > 0] == all_ads[some_ads > 0]).all()
        lost += ((all_ads > 0) & (some_ads == 0)).sum()
        total += (all_ads > 0).sum()
    assert lost / total == pytest.approx(0.3, abs=0.05)


def test_a_seed_fixes_the_order_and_epochs_differ():
    sequences = random_sequences(0)

    def epochs(seed):
        batches = SequenceBatches(sequences, max_history=16, positions=64, seed=seed)
        first = [batches[i][0].tolist() for i in range(len(batches))]
        batches.on_epoch_end()
        return first, [batches[i][0].tolist() for i in range(len(batches))]

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(2)[0]
    assert epochs(1)[0] != epochs(1)[1]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(2, 16), min_size=1, max_size=12), st.integers(0, 2**16))
def test_the_first_two_batches_vary_as_all_do(lengths, seed):
    # Keras reads the shape that it holds all batches to from the first two.
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = Sequences(offsets, np.arange(offsets[-1], dtype=np.int32), np.zeros(offsets[-1]))
    batches = SequenceBatches(sequences, max_history=16, positions=32, seed=seed)
    shapes = np.array([batches[i][0].shape for i in range(len(batches))])
    varies = (shapes != shapes[0]).any(axis=0)
    assert ((shapes[:2] != shapes[0]).any(axis=0) == varies).all()
    held = np.concatenate([batches[i][0].ravel() for i in range(len(batches))])
    assert sorted(held[held > 0]) == list(range(1, offsets[-1] + 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leave_one_out(np.array(["a"]), np.array([1, 2]), np.array([1])), "equally long"),
        (lambda: leave_one_out(np.array([]), np.array([]), np.array([]), 2), "min_events"),
        (lambda: global_time(np.array(["a"]), np.array([-1]), np.array([1])), "No events"),
        (lambda: global_time(np.array(["a"]), np.array([1]), np.array([1]), 0.6, 0.5), "shares?"),
        (lambda: SequenceBatches(random_sequences(0), 1), "max_history"),
        (lambda: SequenceBatches(random_sequences(0), 50, 10), "positions"),
        (lambda: SequenceBatches(random_sequences(0), deletion=1.0), "deletion"),
        (lambda: SequenceBatches(Sequences(np.array([0, 1]), np.zeros(1), np.zeros(1))), "nothing"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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
