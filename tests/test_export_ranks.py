"""The signature `evaluate`: its ranks are those of the evaluation harness."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.sequences import EvaluationSet, Sequences
from sid_tfx.evaluation import GenerativeRecommender, evaluate, list_figures
from sid_tfx.export import Servable, WireLimits
from sid_tfx.export.evaluation import newest_events, sid_ranks, target_ranks
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.metrics import lists, ranking
from sid_tfx.metrics.slices import slice_masks
from sid_tfx.recommender import SidRecommender
from sid_tfx.tokenizer import SidTokenizer
from tests.recommender_fixtures import random_successors

pytestmark = pytest.mark.unit

ADS, LEVELS, CODES, DIM = 60, 2, 4, 8
LIMITS = WireLimits(max_history=20, max_k=20, max_exclude=2, beam_size=30)
MODES = ("generative", "hybrid")
RANKS = ("rank", "sid_rank", "filtered_rank", "filtered_sid_rank")


class NoAds(tf.Module):
    """Stands in for the features of raw ads, which no rank depends on."""

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"title_tokens": tf.zeros([tf.shape(examples)[0], 4], tf.int64)}


@pytest.fixture(scope="module")
def catalog() -> SidCatalog:
    rng = np.random.default_rng(0)
    # Sixteen semantic IDs at most for sixty ads: most ads share theirs.
    return SidCatalog.build(
        [f"ad{ad:02d}" for ad in range(ADS)],
        rng.integers(0, CODES, (ADS, LEVELS)),
        rng.normal(size=(ADS, DIM)),
        codebook_size=CODES,
        max_dedup=20,
    )


@pytest.fixture(scope="module")
def popularity() -> np.ndarray:
    return np.maximum(2 * np.random.default_rng(1).permutation(ADS) - 20, 0)


class Asked:
    """A servable and its signature `evaluate`, traced once."""

    def __init__(self, servable: Servable) -> None:
        self.decoder = servable.decoder
        spec = tf.TensorSpec([None], tf.string)
        self._evaluate = tf.function(servable.evaluate, autograph=False).get_concrete_function(spec)

    def __call__(self, histories, targets) -> dict[str, np.ndarray]:
        examples = map(_example, histories, targets)
        answer = self._evaluate(tf.constant(list(examples)))
        return {name: value.numpy() for name, value in answer.items()}


def _example(history, target: str) -> bytes:
    example = tf.train.Example()
    for name, values in (("history", history), ("target", [target])):
        example.features.feature[name].bytes_list.value.extend(ad.encode() for ad in values)
    return example.SerializeToString()


@pytest.fixture(scope="module")
def asked(catalog, popularity) -> dict[str, Asked]:
    """Servables of one recommender, by default mode."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "mlp_size": 32, "head_size": 16}
    successors = random_successors(len(catalog))
    recommender = SidRecommender.for_catalog(catalog, successors, **sizes, max_history=20)
    recommender.dense_weight.assign(1.0)
    tokenizer = SidTokenizer.from_preset(
        "joint",
        AdSchema(text={"title": 4}),
        FeatureSizes(text=5, categorical={}),
        levels=LEVELS,
        codebook_size=CODES,
        encoder={"embedding_dim": DIM, "detail_dim": 8, "dim": 16},
    )
    parts = (recommender, tokenizer, NoAds(), catalog, popularity)
    return {mode: Asked(Servable(*parts, limits=LIMITS, default_mode=mode)) for mode in MODES}


@pytest.fixture(scope="module")
def users(catalog) -> EvaluationSet:
    """Histories of 1 to 30 ads, repeats among them; a third of the targets were seen before."""
    rng = np.random.default_rng(2)
    histories = [rng.integers(0, ADS, rng.integers(1, 31)) for _ in range(120)]
    targets = [rng.integers(ADS) if user % 3 else row[0] for user, row in enumerate(histories)]
    offsets = np.cumsum([0, *map(len, histories)])
    rows = np.concatenate(histories).astype(np.int32)
    inputs = Sequences(offsets, rows, np.zeros(len(rows), np.int64))
    names = np.array([f"u{user:03d}" for user in range(len(histories))])
    return EvaluationSet(names, inputs, np.array(targets, np.int32), np.zeros(120, np.int64))


@pytest.mark.parametrize("mode", MODES)
def test_ranks_are_those_of_the_harness(asked, catalog, popularity, users, mode):
    histories = np.split(catalog.ad_ids[users.inputs.rows], users.inputs.offsets[1:-1])
    answer = asked[mode](histories, catalog.ad_ids[users.targets])
    assert all(answer[name].dtype == np.float32 for name in RANKS)
    method = GenerativeRecommender(asked[mode].decoder, mode)
    for prefix, filtered in (("", False), ("filtered_", True)):
        result = evaluate("ours", method, users, catalog, filtered, mode, LIMITS.max_k)
        np.testing.assert_array_equal(answer[f"{prefix}rank"], result.ranks)
        np.testing.assert_array_equal(answer[f"{prefix}sid_rank"], result.sid_ranks)
        for level, name in (("item", "rank"), ("sid", "sid_rank")):
            record = result.record(level)
            for metric, value in ranking.ranking_metrics(answer[prefix + name]).items():
                assert value == pytest.approx(record[metric]), (prefix, level, metric)
        if not filtered:
            shown = answer["shown_rows"]
            np.testing.assert_array_equal(shown, result.recommended[:, :10])
            want = list_figures(result, popularity, users.targets)
            assert want == pytest.approx(
                lists.list_figures(
                    len(np.unique(shown[shown >= 0])),
                    int(answer["catalogue_size"][0]),
                    int((shown >= 0).sum()),
                    answer["shown_popularity"].sum(),
                    len(users),
                    answer["target_popularity"].sum(),
                )
            )
    # The four differ, and there are hits and misses, so none can stand for another.
    for name in RANKS:
        assert 0 < (answer[name] == 0).sum() < len(users), name
        assert all((answer[name] != answer[other]).any() for other in RANKS if other != name)
    here = slice_masks(answer["history_length"], answer["target_popularity"])
    there = slice_masks(users.inputs.lengths, popularity[users.targets])
    for name, mask in there.items():
        assert mask.any(), name
        np.testing.assert_array_equal(here[name], mask, err_msg=name)


def test_only_ads_of_the_history_that_is_read_are_left_out(asked, catalog):
    read = list(catalog.ad_ids[: LIMITS.max_history])
    answer = asked["generative"]([read] * ADS, catalog.ad_ids)
    assert answer["rank"][: len(read)].any()
    assert not answer["filtered_rank"][: len(read)].any()
    assert sorted(answer["filtered_rank"][len(read) :])[-LIMITS.max_k :] == list(range(1, 21))
    # An ad that was met before the oldest one that is read can be returned again.
    best = catalog.ad_ids[np.flatnonzero(answer["filtered_rank"] == 1)[0]]
    longer = asked["generative"]([[best, "nobody", *read]], [best])
    assert longer["filtered_rank"][0] == 1
    assert longer["history_length"][0] == len(read) + 2


def test_an_unknown_target_has_no_rank(asked, catalog):
    histories = [catalog.ad_ids[:3], catalog.ad_ids[:3], []]
    answer = asked["generative"](histories, ["nobody", "", "nobody"])
    for name in (*RANKS, "popularity_rank", "target_popularity"):
        np.testing.assert_array_equal(answer[name], [0, 0, 0], err_msg=name)


def test_without_a_known_history_the_ranks_are_those_of_popularity(asked, catalog, popularity):
    order = np.argsort(-popularity, kind="stable")[: LIMITS.max_k]
    lists = np.tile(order, (ADS, 1))
    histories = [["nobody"] * (ad % 2) for ad in range(ADS)]
    answer = asked["generative"](histories, catalog.ad_ids)
    for name in ("rank", "filtered_rank", "popularity_rank"):
        want = ranking.target_ranks(lists, np.arange(ADS))
        np.testing.assert_array_equal(answer[name], want, err_msg=name)
    for name in ("sid_rank", "filtered_sid_rank"):
        want = ranking.sid_ranks(lists, np.arange(ADS), catalog.codes)
        np.testing.assert_array_equal(answer[name], want, err_msg=name)


@given(seed=st.integers(0, 10_000), codes=st.integers(1, 4), length=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ranks_in_the_graph_equal_the_library(seed, codes, length):
    rng = np.random.default_rng(seed)
    ads, batch = 15, 8
    table = rng.integers(0, codes, (ads, 2))
    lists = np.stack([rng.permutation(ads)[:length] for _ in range(batch)])
    lists[np.arange(length) >= rng.integers(0, length + 1, batch)[:, None]] = -1
    targets = rng.integers(0, ads, batch)
    unknown = rng.random(batch) < 0.2
    # Row -1 of the table: codes of no ad.
    sids = np.append(table, [[-1, -1]], axis=0)
    named = np.where(unknown, -1, targets)
    np.testing.assert_array_equal(
        target_ranks(tf.constant(lists, tf.int32), tf.constant(named, tf.int32)),
        np.where(unknown, 0, ranking.target_ranks(lists, targets)),
    )
    np.testing.assert_array_equal(
        sid_ranks(tf.constant(sids[lists], tf.int32), tf.constant(sids[named], tf.int32)),
        np.where(unknown, 0, ranking.sid_ranks(lists, targets, table)),
    )


@pytest.mark.parametrize(
    ("target", "rank"), [([1, 1], 1), ([2, 0], 2), ([0, 2], 3), ([2, 2], 0), ([-1, -1], 0)]
)
def test_semantic_ids_are_ranked_once_each(target, rank):
    results = [[1, 1], [1, 1], [2, 0], [1, 1], [2, 0], [0, 2], [-1, -1], [-1, -1]]
    assert sid_ranks(tf.constant([results]), tf.constant([target])).numpy().tolist() == [rank]


@given(
    lengths=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=4),
    most=st.integers(1, 7),
)
@settings(max_examples=30, deadline=None)
def test_the_newest_events_are_kept_and_what_belongs_to_them(lengths, most):
    histories = [[f"{row}-{place}" for place in range(n)] for row, (n, _) in enumerate(lengths)]
    timestamps = [[100 * row + place for place in range(n)] for row, (_, n) in enumerate(lengths)]
    users = {
        "history": tf.ragged.constant(histories, tf.string, row_splits_dtype=tf.int32),
        "timestamps": tf.ragged.constant(timestamps, tf.int64, row_splits_dtype=tf.int32),
        "target": tf.constant([""] * len(lengths)),
    }
    found = newest_events(users, most)
    assert found.keys() == {"history", "timestamps"}
    for row, (length, _) in enumerate(lengths):
        kept = slice(max(length - most, 0), length)
        ads = [ad.decode() for ad in found["history"][row].numpy()]
        assert ads == histories[row][kept]
        assert found["timestamps"][row].numpy().tolist() == timestamps[row][kept]
