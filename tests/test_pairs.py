import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.callbacks.mining import conflict_groups, free_codes
from sid_tfx.datasets.pairs import PairBatches

pytestmark = pytest.mark.unit

FEATURES = {"advertiser": np.arange(10) + 2, "vector": np.arange(20.0).reshape(10, 2)}
PAIRS = np.array([[0, 1], [0, 2], [3, 4], [9, 0]])


def batches(**arguments):
    return PairBatches(FEATURES, **{"pairs": PAIRS, "batch_size": 4, "seed": 1, **arguments})


def epoch_rows(data):
    return [data[i][0]["ad_row"].reshape(2, -1) for i in range(len(data))]


def test_rows_are_stacked_triggers_then_targets():
    (features,) = batches()[0]
    assert features["ad_row"].dtype == np.int32
    assert features["vector"].shape == (8, 2)
    np.testing.assert_array_equal(features["advertiser"], features["ad_row"] + 2)


def test_an_epoch_has_every_ad_and_pairs_it_as_given():
    rows = np.concatenate(epoch_rows(batches()), axis=1)
    assert set(rows[0]) == set(range(10))
    allowed = {tuple(pair) for pair in PAIRS} | {(row, row) for row in (1, 2, 4, 5, 6, 7, 8)}
    assert {tuple(pair) for pair in rows.T} <= allowed


def test_order_and_draws_follow_seed_and_epoch():
    one, two = batches(), batches()
    np.testing.assert_array_equal(epoch_rows(one), epoch_rows(two))
    before = epoch_rows(one)
    one.on_epoch_end()
    assert not np.array_equal(epoch_rows(one), before)
    two.on_epoch_end()
    np.testing.assert_array_equal(epoch_rows(one), epoch_rows(two))
    assert not np.array_equal(epoch_rows(batches(seed=2)), before)


def test_targets_are_drawn_by_weight():
    data = batches(weights=np.array([3.0, 1.0, 1.0, 1.0]))
    drawn = []
    for _ in range(400):
        rows = np.concatenate(epoch_rows(data), axis=1)
        drawn.append(rows[1, rows[0] == 0][0])
        data.on_epoch_end()
    assert abs(np.mean(np.array(drawn) == 1) - 0.75) < 0.07


def test_without_pairs_every_ad_pairs_with_itself():
    for rows in epoch_rows(batches(pairs=np.zeros((0, 2), int))):
        np.testing.assert_array_equal(rows[0], rows[1])


def test_a_catalogue_smaller_than_a_batch_makes_a_smaller_batch():
    data = batches(batch_size=256)
    assert len(data) == 1
    assert data[0][0]["ad_row"].shape == (20,)


def test_grouped_ads_meet_in_one_batch():
    rows = 1000
    features = {"advertiser": np.zeros(rows, int)}
    data = PairBatches(features, np.zeros((0, 2), int), batch_size=100, seed=3)
    groups = np.arange(rows)
    groups[::100] = -1

    def together():
        members = [np.sum(batch[0] % 100 == 0) for batch in epoch_rows(data)]
        return max(members)

    assert together() < 6
    data.regroup(groups)
    for _ in range(3):
        assert together() >= 5, "ten ads on at most two neighbouring batches"
        assert len(set(np.concatenate(epoch_rows(data), axis=1)[0])) == rows
        data.on_epoch_end()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": {}}, "length above 0"),
        ({"features": {"a": np.zeros(2), "b": np.zeros(3)}}, "'b': 3"),
        ({"pairs": np.array([[0, 10]])}, "from 0 to 10; there are 10"),
        ({"weights": np.ones(3)}, "4 finite numbers"),
        ({"weights": np.array([1.0, 0.0, 1.0, 1.0])}, "above 0"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairBatches(**{"features": FEATURES, "pairs": PAIRS, **arguments})


def test_groups_must_cover_the_ads():
    with pytest.raises(ValueError, match=r"\[10\]"):
        batches().regroup(np.zeros(3))


def test_replay_gives_a_share_of_every_batch_to_crowded_groups():
    data = PairBatches({"x": np.arange(96)}, np.zeros((0, 2)), batch_size=32, seed=1)
    groups = np.arange(96)
    groups[40:44] = 40
    data.regroup(groups, replay=0.25)
    for _ in range(2):
        for index in range(len(data)):
            triggers = data[index][0]["ad_row"][:32]
            assert len(triggers) == 32
            assert set(triggers[-8:]) == {40, 41, 42, 43}
        data.on_epoch_end()
    data.regroup(np.arange(96), replay=0.25)
    seen = np.concatenate([data[index][0]["ad_row"][:32] for index in range(len(data))])
    assert sorted(seen) == list(range(96)), "without a crowd every ad comes once"


def test_replay_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"replay must be in \[0, 1\), got 1"):
        batches().regroup(np.zeros(len(batches().features["advertiser"])), replay=1.0)


def test_copies_of_an_ad_are_no_conflict():
    codes = np.array([[1, 2], [1, 2], [3, 4], [3, 4], [5, 6], [1, 2]])
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.50001], [1.0, 1.0], [1.0, 0.0]])
    groups = conflict_groups(codes, vectors)
    assert groups[0] == groups[1] == groups[5]
    assert len(np.unique(groups)) == 4, "rows 2 and 3 are one ad under two ids"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_free_codes_are_the_best_that_nobody_has(seed, ads, movers):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, 3, ads), rng.integers(0, 6, ads)], axis=1)
    rows = rng.permutation(ads)[:movers]
    choices = np.stack([rng.permutation(6)[:4] for _ in rows])
    found = free_codes(codes, rows, choices)
    have = {tuple(code) for code in codes.tolist()}
    got = [(codes[row, 0], code) for row, code in zip(rows, found, strict=True) if code >= 0]
    assert len(set(got)) == len(got), "no two ads get one code"
    assert not have & set(got), "what they get was free"
    for row, code, wanted in zip(rows, found, choices, strict=True):
        better = wanted[: list(wanted).index(code)] if code >= 0 else wanted
        for other in better:
            assert (codes[row, 0], other) in have | set(got), "a better one was free"
