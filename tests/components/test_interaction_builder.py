"""Sequences with their split, and Swing pairs against a brute-force oracle."""

import collections
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import channel_utils

from components.artifacts import get_summary
from components.interaction_builder.component import InteractionBuilder
from components.interaction_builder.pairs import cap_users, memberships, score_groups
from components.interaction_builder.sequences import ordered_events, split_user
from components.refusal import Refused
from sid_tfx.datasets import swing
from sid_tfx.datasets.records import read_sequences
from sid_tfx.datasets.sequences import global_time
from sid_tfx.datasets.swing import swing_pairs
from tests.components.ingest import (
    ADS_SPEC,
    EVENTS_SPEC,
    ad,
    build_interactions,
    decoded,
    event,
    examples_artifact,
    ingest,
    read_split,
    write,
)

pytestmark = pytest.mark.unit


def oracle(users, items, alpha, top_k, single_users=False):
    """Swing by its definition: every pair of users, every pair of their shared items."""
    history = collections.defaultdict(set)
    for user, item in zip(users, items, strict=True):
        history[user].add(item)
    scores: dict = collections.defaultdict(float)
    users_and_users = itertools.combinations(sorted(history), 2)
    if single_users:
        users_and_users = itertools.combinations_with_replacement(sorted(history), 2)
    for u, v in users_and_users:
        shared = history[u] & history[v]
        weight = 1 / np.sqrt(len(history[u]) * len(history[v])) / (alpha + len(shared))
        for pair in itertools.permutations(shared, 2):
            scores[pair] += weight
    result = {}
    for trigger in {i for i, _ in scores}:
        targets = [(j, np.float32(s)) for (i, j), s in scores.items() if i == trigger]
        result[trigger] = sorted(targets, key=lambda pair: (-pair[1], pair[0]))[:top_k]
    return result


def as_dict(pairs):
    result = collections.defaultdict(list)
    for trigger, target, score in zip(*pairs, strict=True):
        result[trigger].append((target, score))
    return dict(result)


LOG = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=60)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(LOG, st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([1, 3, 20]), st.booleans())
def test_swing_equals_its_definition(log, alpha, top_k, single_users):
    users, items = np.array(log, np.int64).reshape(-1, 2).T
    found = as_dict(swing_pairs(users, items, alpha=alpha, top_k=top_k, single_users=single_users))
    expected = oracle(users, items, alpha, 100, single_users)
    assert found.keys() == expected.keys()
    for trigger, targets in found.items():
        scores = dict(expected[trigger])
        assert len(targets) == min(top_k, len(scores))
        for target, score in targets:
            assert score == pytest.approx(scores.pop(target), rel=1e-6)
        # What was left out scores no more than what was kept.
        assert all(rest <= targets[-1][1] * (1 + 1e-6) for rest in scores.values())
        assert [s for _, s in targets] == sorted((s for _, s in targets), reverse=True)


def test_swing_in_blocks_is_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 40, 400), rng.integers(0, 30, 400)
    whole = swing_pairs(users, items)
    monkeypatch.setattr(swing, "_MAX_ENTRIES", 50)
    for a, b in zip(whole, swing_pairs(users, items), strict=True):
        np.testing.assert_array_equal(a, b)


def test_swing_does_not_depend_on_the_order_of_events():
    rng = np.random.default_rng(4)
    users, items = rng.integers(0, 60, 600), rng.integers(0, 20, 600)
    order = rng.permutation(600)
    once = swing_pairs(users, items, max_users_per_item=7)
    again = swing_pairs(users[order], items[order], max_users_per_item=7)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_very_popular_item_takes_a_sample_of_its_users():
    users = np.repeat(np.arange(1000), 2)
    items = np.tile([0, 1], 1000)
    pairs = swing_pairs(users, items, max_users_per_item=10)
    # 45 pairs of 10 users, each 1/2 / (1 + 2).
    np.testing.assert_allclose(pairs.score, 45 / 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"max_users_per_item": 1}, "max_users_per_item must be at least 2, got 1"),
    ],
)
def test_swing_names_a_wrong_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        swing_pairs(np.array([0, 0]), np.array([1, 2]), **arguments)
    with pytest.raises(ValueError, match="vectors of one length"):
        swing_pairs(np.array([0]), np.array([1, 2]))
    with pytest.raises(ValueError, match="item_rows must be at least 0, got -1"):
        swing_pairs(np.array([0]), np.array([-1]))


def test_capped_users_are_chosen_by_a_hash_not_by_order():
    members = [(f"u{i}".encode(), (b"a", b"b")) for i in range(50)]
    trigger, kept = cap_users((b"a", members), 5)
    assert (trigger, len(kept)) == (b"a", 5)
    assert cap_users((b"a", members[::-1]), 5)[1] == kept
    assert cap_users((b"b", members), 5)[1] != kept


def test_newest_distinct_ads_count():
    found = dict(memberships((b"u", (b"a", b"b", b"a", b"c")), 2))
    assert found == {b"a": (b"u", (b"a", b"c")), b"c": (b"u", (b"a", b"c"))}
    assert list(memberships((b"u", (b"a", b"a")), 5)) == []


def test_scores_of_a_group_do_not_depend_on_what_shares_the_batch():
    rng = np.random.default_rng(5)
    histories = {f"u{i}".encode(): tuple(sorted({f"a{j}".encode() for j in rng.integers(0, 9, 5)}))
                 for i in range(30)}  # fmt: skip
    groups = collections.defaultdict(list)
    for user, ads in sorted(histories.items()):
        for ad_id in ads:
            groups[ad_id].append((user, ads))
    together = decoded(score_groups(sorted(groups.items()), 1.0, 4, False))
    alone = decoded(e for group in groups.items() for e in score_groups([group], 1.0, 4, False))
    assert together == alone
    users, items = zip(*((u, a) for u, ads in histories.items() for a in ads), strict=True)
    names = np.unique(items)
    pure = swing_pairs(
        np.unique(users, return_inverse=True)[1], np.searchsorted(names, items), top_k=4
    )
    assert len(together) == len(pure.score)


USER = [(10, b"a", b"view", 0.0), (20, b"b", b"", 2.0), (30, b"c", b"", 0.0), (40, b"d", b"", 1.0)]


def test_leave_one_out():
    parts = split_user(b"u", USER, "leave_one_out")
    assert parts["train"].history == (b"a", b"b")
    assert parts["train"].timestamps == (10, 20)
    assert (parts["train"].events, parts["train"].weights) == ((b"view", b""), (0.0, 2.0))
    assert parts["train"].target is None
    assert (parts["validation"].history, parts["validation"].target) == ((b"a", b"b"), b"c")
    assert (parts["test"].history, parts["test"].target) == ((b"a", b"b", b"c"), b"d")
    assert parts["test"].target_timestamp == 40


@pytest.mark.parametrize("count", [1, 2])
def test_users_of_few_events_train_wholly(count):
    parts = split_user(b"u", USER[:count], "leave_one_out")
    assert list(parts) == ["train"]
    assert len(parts["train"].history) == count


def test_all_trains_on_every_event_and_keeps_the_targets():
    parts = split_user(b"u", USER, "all")
    assert parts["train"].history == (b"a", b"b", b"c", b"d")
    assert parts["validation"].target == b"c"
    assert parts["test"].target == b"d"


@pytest.mark.parametrize(
    ("boundaries", "train", "validation", "test"),
    [
        ((20, 40), 1, b"b", b"d"),
        ((25, 26), 2, None, b"c"),
        ((5, 30), 0, None, b"c"),
        ((50, 60), 4, None, None),
        ((0, 5), 0, None, None),
    ],
)
def test_global_time(boundaries, train, validation, test):
    parts = split_user(b"u", USER, "global_time", boundaries)
    assert len(parts["train"].history if "train" in parts else ()) == train
    assert (parts["validation"].target if "validation" in parts else None) == validation
    assert (parts["test"].target if "test" in parts else None) == test
    for name in {"validation", "test"} & set(parts):
        times = [event[0] for event in USER]
        assert parts[name].timestamps == tuple(
            time for time in times if time < parts[name].target_timestamp
        )


def test_events_are_ordered_by_time_then_ad_and_repeats_dropped():
    events = [(20, b"b", b"view", 0.0), (10, b"z", b"", 0.0), (20, b"a", b"", 0.0)]
    assert ordered_events([*events, events[0]]) == [events[1], events[2], events[0]]
    # Of two events at once the heavier says more, else the order of their types decides.
    heavier, later = (20, b"b", b"buy", 1.0), (20, b"b", b"wish", 0.0)
    for given in itertools.permutations([events[0], heavier, later]):
        assert ordered_events(given) == [heavier]
    assert ordered_events([later, events[0]]) == ordered_events([events[0], later]) == [later]


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """20 ads, 60 users; the events as a list of rows and both as artifacts."""
    folder = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(6)
    rows = [
        event(f"u{u}", f"ad{rng.integers(0, 20)}", int(rng.integers(0, 1000)))
        for u in range(60)
        for _ in range(rng.integers(1, 9))
    ]
    rows += rows[:5]
    ads = ingest(write(folder / "ads.jsonl", [ad(i) for i in range(20)]), ADS_SPEC, folder)
    events = ingest(write(folder / "events.jsonl", rows), EVENTS_SPEC, folder)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    again = ingest(write(folder / "again.parquet", shuffled), EVENTS_SPEC, folder / "again")
    return rows, ads, events, again


def expected_users(rows):
    users = collections.defaultdict(set)
    for row in rows:
        users[row["user_id"].encode()].add((row["timestamp"], row["ad_id"].encode()))
    return {user: sorted(events) for user, events in users.items()}


def test_pipeline_gives_sequences_and_pairs(market, tmp_path):
    rows, ads, events, again = market
    sequences, pairs = build_interactions(events, ads, tmp_path / "1", swing_top_k=5)
    users = expected_users(rows)
    train = {row["user_id"][0]: row for row in read_split(sequences, "train")}
    assert train.keys() == users.keys()
    for name, back in (("validation", 2), ("test", 1)):
        held_out = {row["user_id"][0]: row for row in read_split(sequences, name)}
        assert held_out.keys() == {u for u, e in users.items() if len(e) >= 3}
        for user, row in held_out.items():
            assert list(zip(row["timestamps"], row["history"], strict=True)) == users[user][:-back]
            assert row["target"] == [users[user][-back][1]]
            assert row["target_timestamp"] == [users[user][-back][0]]

    # Pairs are what training events alone give.
    log = [(u, a) for u, row in train.items() for a in row["history"]]
    expected = oracle([u for u, _ in log], [a for _, a in log], alpha=1.0, top_k=5)
    found = collections.defaultdict(list)
    for row in read_split(pairs, "train"):
        found[row["trigger"][0]].append(row["score"][0])
    assert {t: sorted(s) for t, s in found.items()} == {
        t: pytest.approx(sorted(s for _, s in targets)) for t, targets in expected.items()
    }
    assert sequences.splits == ["train", "validation", "test"]
    assert pairs.splits == ["train"]
    kept = sum(map(len, users.values()))
    assert sequences.get_int_custom_property("kept") == kept
    assert sequences.get_int_custom_property("repeated") == len(rows) - kept
    assert get_summary(sequences).startswith(f"{len(users)} users, {kept} events")

    # The same whatever the order and the format of the events.
    others = build_interactions(again, ads, tmp_path / "2", swing_top_k=5)
    for one, other in zip((sequences, pairs), others, strict=True):
        for split in one.splits:
            assert read_split(one, split) == read_split(other, split)


def test_pipeline_splits_by_global_time(market, tmp_path):
    rows, ads, events, _ = market
    sequences, _ = build_interactions(
        events, ads, tmp_path, split="global_time", validation_share=0.2, test_share=0.2
    )
    log = [(user, *met) for user, events in expected_users(rows).items() for met in events]
    users, times, ads_met = (np.array(column) for column in zip(*log, strict=True))
    ad_ids, met = np.unique(ads_met, return_inverse=True)
    # The library is given no repeats, the pipeline is.
    assert len(log) < len(rows)
    splits = global_time(users, met, times, 0.2, 0.2)
    trained = sum(len(row["history"]) for row in read_split(sequences, "train"))
    assert trained == len(splits.train.rows)
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        assert len(part)
        found = {
            row["user_id"][0]: (row["target"][0], row["target_timestamp"][0], len(row["history"]))
            for row in read_split(sequences, name)
        }
        targets = zip(
            ad_ids[part.targets].tolist(),
            part.target_timestamps.tolist(),
            part.inputs.lengths.tolist(),
            strict=True,
        )
        assert found == dict(zip(part.users.tolist(), targets, strict=True))


def test_types_and_weights_stand_beside_the_times(market, tmp_path):
    _, ads, _, _ = market
    rows = [
        event("u1", "ad3", 30, event="buy", weight=2.5),
        event("u1", "ad1", 10, event="view"),
        event("u1", "ad2", 20, weight=0.5),
        event("u2", "ad5", 7),
    ]
    events = ingest(write(tmp_path / "events.jsonl", rows), EVENTS_SPEC, tmp_path)
    sequences, _ = build_interactions(events, ads, tmp_path, split="all")
    one, other = sorted(read_split(sequences, "train"), key=lambda row: row["user_id"])
    assert one["events"] == [b"view", b"", b"buy"]
    assert one["weights"] == [0.0, 0.5, 2.5]
    assert one["timestamps"] == [10, 20, 30]
    assert not {"events", "weights"} & set(other)
    [test] = read_split(sequences, "test")
    assert test["events"] == [b"view", b""], "nothing of the target"
    found = read_sequences(f"{sequences.uri}/Split-train/*")
    assert [events.tolist() for events in found.events] == [["view", "", "buy"], [""]]
    assert [weights.tolist() for weights in found.weights] == [[0.0, 0.5, 2.5], [0.0]]
    assert [times.tolist() for times in found.timestamps] == [[10, 20, 30], [7]]


def test_a_time_split_without_training_events_is_refused(market, tmp_path):
    _, ads, _, _ = market
    path = write(tmp_path / "events.csv", [event(f"u{i}", "ad1", 5) for i in range(9)])
    events = ingest(path, EVENTS_SPEC, tmp_path)
    with pytest.raises(Refused, match="global_time leaves 0 of 9 events for training"):
        build_interactions(events, ads, tmp_path, split="global_time")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "random"}, "split must be one of"),
        ({"validation_share": 0.6, "test_share": 0.5}, "sum to less than 1, got 0.6 and 0.5"),
        ({"swing_alpha": 0}, "swing_alpha must be above 0, got 0"),
        ({"swing_top_k": 0}, "swing_top_k must be at least 1, got 0"),
        ({"max_users_per_ad": 1}, "max_users_per_ad must be at least 2, got 1"),
        ({"max_rejected_share": 2}, r"max_rejected_share must lie in \[0, 1\], got 2"),
    ],
)
def test_a_wrong_argument_names_itself(arguments, message, tmp_path):
    channel = channel_utils.as_channel([examples_artifact(tmp_path, '["all"]')])
    with pytest.raises(ValueError, match=message):
        InteractionBuilder(channel, channel, **arguments)


def test_written_files_are_gzipped_shards(market, tmp_path):
    _, ads, events, _ = market
    sequences, pairs = build_interactions(events, ads, tmp_path, split="all")
    for artifact, split in ((sequences, "train"), (sequences, "test"), (pairs, "train")):
        (path,) = tf.io.gfile.glob(f"{artifact.uri}/Split-{split}/*")
        assert path.endswith("data_tfrecord-00000-of-00001.gz")
