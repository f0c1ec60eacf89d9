"""Splits without leakage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.datasets.sequences import (
    Sequences,
    global_time,
    leave_one_out,
    time_boundaries,
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
    """user -> [(time, row), ...] in order, each once: the oracle."""
    result = {}
    for user, row, time in zip(users.tolist(), rows.tolist(), times.tolist(), strict=True):
        if row >= 0:
            result.setdefault(user, []).append((time, row))
    return {user: sorted(set(events)) for user, events in sorted(result.items())}


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


def test_a_repeat_leaves_the_event_of_the_largest_weight_then_the_last_type():
    users, rows, times = np.zeros(6, int), np.array([5, 5, 5, 5, 2, 5]), np.array([1] * 5 + [2])
    events = np.array(["view", "wish", "buy", "share", "view", "view"])
    for weights, kept in (([1.0, 1.0, 2.0, 0.5, 0, 0], "buy"), ([1.0, 1.0, 0, 0.5, 0, 0], "wish")):
        columns = {"events": events, "weights": np.array(weights)}
        splits = leave_one_out(users, rows, times, **columns)
        assert splits.train.rows.tolist() == [2]
        assert splits.validation.targets.tolist() == [5]
        assert splits.test.inputs.events.tolist() == ["view", kept]
        assert splits.test.inputs.weights.tolist() == [0, max(weights)]
    assert leave_one_out(users, rows, times, events=events).test.inputs.events[1] == "wish"
    # Three lines of the log, but two events: too few to be judged.
    assert not len(leave_one_out(users[:3], rows[2:5], times[:3]).test)


def test_repeats_do_not_move_the_boundaries_of_time():
    users, rows = np.array([0, 0, 0, 0, 1]), np.arange(5)
    times = np.arange(5)
    again = np.concatenate([np.arange(5), np.full(40, 4)])
    once = global_time(users, rows, times, 0.2, 0.4)
    twice = global_time(users[again], rows[again], times[again], 0.2, 0.4)
    for splits in (once, twice):
        assert as_lists(splits.train) == [[0, 1], []]
        assert splits.validation.targets.tolist() == [2]
        assert splits.test.targets.tolist() == [3]


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leave_one_out(np.array(["a"]), np.array([1, 2]), np.array([1])), "equally long"),
        (lambda: leave_one_out(np.array([]), np.array([]), np.array([]), 2), "min_events"),
        (lambda: global_time(np.array(["a"]), np.array([-1]), np.array([1])), "No events"),
        (lambda: global_time(np.array(["a"]), np.array([1]), np.array([1]), 0.6, 0.5), "shares?"),
        (lambda: time_boundaries(np.array([1]), np.array([2]), 0.0, 0.5), "got 0.0 and 0.5"),
        (lambda: time_boundaries(np.array([], int), np.array([], int), 0.1, 0.1), "No events"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
