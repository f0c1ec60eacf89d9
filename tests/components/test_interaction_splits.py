"""The pipeline and the library cut one log alike: boundaries of time, repeats, targets."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.interaction_builder.executor import TimeQuantiles
from components.interaction_builder.sequences import ordered_events, split_user
from sid_tfx.datasets.sequences import global_time, leave_one_out, time_boundaries

pytestmark = pytest.mark.unit

AD_IDS = np.array([f"ad{row}" for row in range(5)])
# Few users, ads and times, so that ties and repeats are common.
LOGS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, len(AD_IDS) - 1),
        st.integers(0, 8),
        st.sampled_from(["", "view", "buy"]),
        st.sampled_from([0.0, 0.5, 3.0]),
    ),
    min_size=1,
    max_size=60,
)
PERCENT = st.integers(1, 49)


def time_at(times, percent):
    """The time of the first event with which more than `percent` of the log have happened."""
    happened = enumerate(sorted(times), start=1)
    return next(time for count, time in happened if 100 * count > percent * len(times))


def quantiles(times, shares, parts=1):
    """What Beam finds if as many workers share the times."""
    combine = TimeQuantiles(*shares)
    accumulators = [combine.create_accumulator() for _ in range(parts)]
    for i, time in enumerate(times):
        combine.add_input(accumulators[i % parts], time)
    return combine.extract_output(combine.merge_accumulators(accumulators))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), PERCENT, PERCENT, st.integers(1, 4))
def test_boundaries_are_those_of_a_loop(times, validation, test, parts):
    want = time_at(times, 100 - validation - test), time_at(times, 100 - test)
    shares = validation / 100, test / 100
    assert time_boundaries(*np.unique(times, return_counts=True), *shares) == want
    assert quantiles(times, shares, parts) == want


def test_boundaries_of_shares_that_are_next_to_nothing_lie_in_the_log():
    assert time_boundaries(np.array([3, 5]), np.array([1, 1]), 1e-9, 1e-9) == (5, 5)
    assert quantiles([], (0.1, 0.1)) == (0, 0)


def by_pipeline(log, split, shares):
    """Split -> user -> history, what stands beside it, target and its time."""
    users = collections.defaultdict(list)
    for user, row, time, kind, weight in log:
        users[user].append((time, AD_IDS[row].encode(), kind.encode(), weight))
    users = {user: ordered_events(events) for user, events in users.items()}
    times = [event[0] for events in users.values() for event in events]
    boundaries = quantiles(times, shares, parts=2)
    found = collections.defaultdict(dict)
    for user, events in users.items():
        for name, part in split_user(b"", events, split, boundaries).items():
            beside = (part.timestamps, tuple(kind.decode() for kind in part.events), part.weights)
            history = tuple(ad_id.decode() for ad_id in part.history)
            target = None if part.target is None else (part.target.decode(), part.target_timestamp)
            found[name][user] = (history, *beside, target)
    return found


def by_library(log, split, shares):
    """As `by_pipeline`."""
    users, rows, times, kinds, weights = map(np.array, zip(*log, strict=True))
    beside = {"events": kinds, "weights": weights}
    if split == "leave_one_out":
        splits = leave_one_out(users, rows, times, **beside)
    else:
        splits = global_time(users, rows, times, *shares, **beside)

    def as_dict(names, histories, targets):
        columns = (
            AD_IDS[histories.rows], histories.timestamps, histories.events, histories.weights
        )  # fmt: skip
        columns = [
            map(tuple, (part.tolist() for part in np.split(values, histories.offsets[1:-1])))
            for values in columns
        ]
        # A user without a training event is no user of the pipeline's.
        return {
            user: (history, *rest)
            for user, history, *rest in zip(names.tolist(), *columns, targets, strict=True)
            if history
        }

    found = {"train": as_dict(np.unique(users), splits.train, [None] * len(splits.train))}
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        targets = AD_IDS[part.targets].tolist(), part.target_timestamps.tolist()
        if len(part):
            found[name] = as_dict(part.users, part.inputs, zip(*targets, strict=True))
    return {name: users for name, users in found.items() if users}


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
@settings(deadline=None, max_examples=100)
@given(log=LOGS, validation=PERCENT, test=PERCENT)
def test_both_cut_a_log_alike(split, log, validation, test):
    shares = validation / 100, test / 100
    assert by_library(log, split, shares) == by_pipeline(log, split, shares)
