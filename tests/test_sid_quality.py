import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import v_measure_score

from sid_tfx.catalog import SidCatalog
from sid_tfx.metrics.churn import catalog_churn, churn
from sid_tfx.metrics.hit_rate import embedding_hit_rate
from sid_tfx.metrics.sid_quality import (
    category_v_measure,
    gini,
    group_sizes,
    prefix_purity,
    sid_quality,
)

pytestmark = pytest.mark.unit

CODES = np.array([[0, 1], [0, 1], [0, 2], [3, 1]], "int32")


def test_counts_collisions_of_a_known_table():
    quality = sid_quality(CODES, codebook_size=4)
    assert quality["collision_share"] == 0.5
    assert quality["largest_group"] == 2
    assert quality["distinct_sids"] == 3
    expected = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    assert quality["entropy_nats"] == pytest.approx(expected)
    assert quality["entropy_share"] == pytest.approx(expected / np.log(4))
    assert quality["coverage"] == [0.5, 0.5]
    assert quality["dead_codes"] == [2, 2]
    first = np.array([0.75, 0.25])
    assert quality["perplexity"][0] == pytest.approx(np.exp(-(first * np.log(first)).sum()))


def test_even_use_has_full_entropy_and_no_inequality():
    codes = np.array([[i, j] for i in range(4) for j in range(4)])
    quality = sid_quality(codes, 4)
    assert quality["collision_share"] == 0.0
    assert quality["entropy_share"] == pytest.approx(1.0)
    assert quality["perplexity"] == pytest.approx([4.0, 4.0])
    assert quality["gini"] == pytest.approx([0.0, 0.0])


def test_a_collapsed_table_is_seen():
    quality = sid_quality(np.zeros((10, 3), int), 256)
    assert quality["collision_share"] == 1.0
    assert quality["largest_group"] == 10
    assert quality["entropy_nats"] == 0.0
    assert quality["perplexity"] == pytest.approx([1.0] * 3)
    assert min(quality["gini"]) > 0.99


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 4))
def test_agrees_with_counting_tuples_in_any_row_order(seed, rows, levels):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (rows, levels))
    tuples = [tuple(row) for row in codes]
    quality = sid_quality(codes, 3)
    colliding = sum(tuples.count(row) > 1 for row in tuples)
    assert quality["collision_share"] == pytest.approx(colliding / rows)
    assert quality["largest_group"] == max(map(tuples.count, tuples))
    np.testing.assert_array_equal(group_sizes(codes), [tuples.count(row) for row in tuples])
    shuffled = sid_quality(codes[rng.permutation(rows)], 3)
    assert shuffled["entropy_nats"] == pytest.approx(quality["entropy_nats"])
    assert shuffled["perplexity"] == pytest.approx(quality["perplexity"])


def test_v_measure_and_purity_tell_meaning_from_noise():
    rng = np.random.default_rng(0)
    categories = rng.integers(0, 5, 500)
    codes = np.stack([categories, rng.integers(0, 5, 500)], axis=1)
    quality = sid_quality(codes, 5, categories)
    assert quality["v_measure"][0] == pytest.approx(1.0)
    assert quality["v_measure"][1] < 0.1
    assert prefix_purity(codes, categories) == [1.0, 1.0]
    noise, both = prefix_purity(codes[:, ::-1], categories)
    assert noise < 0.4
    assert both == 1.0


def test_churn_per_ad_and_per_level():
    after = CODES.copy()
    after[0, 1] = 3
    after[1] = [2, 2]
    assert churn(CODES, after) == {"churn": 0.5, "level_churn": [0.25, 0.5]}
    assert churn(CODES, CODES)["churn"] == 0.0
    with pytest.raises(ValueError, match="one shape"):
        churn(CODES, CODES[:2])


def test_v_measure_against_every_depth_of_the_tree():
    rng = np.random.default_rng(0)
    root = rng.integers(1, 4, 300)
    paths = np.stack([root, 10 * root + rng.integers(0, 3, 300)], axis=1)
    paths[:40, 1] = 0
    codes = np.stack([root, rng.integers(0, 5, 300)], axis=1)
    measured = category_v_measure(codes, paths)
    assert measured[0][0] == pytest.approx(1.0)
    filled = np.where(paths[:, 1] == 0, root, paths[:, 1])
    assert measured[0][1] == pytest.approx(v_measure_score(filled, root))
    assert measured[1] == pytest.approx(
        [v_measure_score(root, codes[:, 1]), v_measure_score(filled, codes[:, 1])]
    )
    quality = sid_quality(codes, 5, filled)
    assert quality["v_measure"] == pytest.approx([level[-1] for level in measured])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_gini_is_the_mean_difference_of_all_pairs(counts):
    counts = np.array(counts)
    expected = np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean())
    assert gini(counts) == pytest.approx(expected, abs=1e-9)


def hit_rate_oracle(embeddings, pairs, k):
    """Expected hit with ties drawn at random, one pair after the other."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    cosine = np.round(unit @ unit.T, 6)
    hits = []
    for trigger, target in pairs:
        others = np.delete(cosine[trigger], trigger)
        above = (others > cosine[trigger, target]).sum()
        ties = (others == cosine[trigger, target]).sum()
        hits.append(np.clip((k - above) / ties, 0, 1))
    return np.mean(hits)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 12), st.booleans())
def test_hit_rate_equals_its_oracle_with_and_without_ties(seed, rows, k, ties):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(rows, 3))
    if ties:
        embeddings = embeddings[rng.integers(0, max(1, rows // 3), rows)]
        embeddings[rng.random(rows) < 0.1] = 0.0
    pairs = rng.integers(0, rows, (40, 2))
    pairs = np.concatenate([pairs[pairs[:, 0] != pairs[:, 1]], [[0, 1]]])
    measured = embedding_hit_rate(embeddings, pairs, k)
    assert measured == pytest.approx(hit_rate_oracle(embeddings, pairs, k), abs=1e-6)


def test_hit_rate_does_not_depend_on_its_chunks_and_samples_triggers(monkeypatch):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 4))
    pairs = np.stack([rng.integers(0, 30, 200), rng.integers(30, 60, 200)], axis=1)
    whole = embedding_hit_rate(embeddings, pairs, 5)
    monkeypatch.setattr("sid_tfx.metrics.hit_rate._CHUNK_SCORES", 100)
    assert embedding_hit_rate(embeddings, pairs, 5) == pytest.approx(whole)
    sampled = embedding_hit_rate(embeddings, pairs, 5, max_triggers=7, seed=1)
    assert sampled == embedding_hit_rate(embeddings, pairs, 5, max_triggers=7, seed=1)
    assert sampled != whole


def test_one_vector_for_all_ads_hits_by_chance_only():
    pairs = np.array([[0, 1], [5, 9]])
    assert embedding_hit_rate(np.ones((21, 4)), pairs, 5) == pytest.approx(5 / 20)
    assert embedding_hit_rate(np.eye(21), pairs, 20) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[np.nan, 1.0]], [[0, 0]]), "finite"),
        ((np.eye(3), np.zeros((0, 2), int)), "P > 0"),
        ((np.eye(3), [[0, 3]]), "rows 0 to 3; there are 3"),
        ((np.eye(3), [[1, 1]]), "two ads each"),
        ((np.eye(3), [[0, 1]], 0), "k .* 0"),
        ((np.eye(3), [[0, 1]], 1, 0), "max_triggers .* 0"),
    ],
)
def test_wrong_arguments_of_hit_rate_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        embedding_hit_rate(*arguments)


def test_catalogues_are_joined_on_the_ad_id():
    before = SidCatalog.build(["a", "b", "c", "gone"], CODES, np.eye(4), codebook_size=4)
    changed = {"c": [0, 3], "new": [1, 1], "a": [0, 1], "b": [0, 1]}
    after = SidCatalog.build(list(changed), list(changed.values()), np.eye(4), codebook_size=4)
    assert catalog_churn(before, after) == {
        "churn": pytest.approx(1 / 3),
        "level_churn": pytest.approx([0.0, 1 / 3]),
        "common_ads": 3,
        "new_ads": 1,
        "gone_ads": 1,
    }
    other = SidCatalog.build(["x"], [[0, 0]], np.eye(1), codebook_size=4)
    with pytest.raises(ValueError, match="No ad is in both"):
        catalog_churn(before, other)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, 3), int), "N > 0"),
        (np.zeros(3, int), r"\(3,\)"),
        (np.zeros((3, 2)), "float64"),
        (np.full((3, 2), 4), r"\[0, 4\), got 4 to 4"),
        (np.full((3, 2), -1), "got -1"),
    ],
)
def test_wrong_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        sid_quality(codes, 4)


def test_categories_must_match_the_ads():
    with pytest.raises(ValueError, match="4 values"):
        sid_quality(CODES, 4, [1, 2])
