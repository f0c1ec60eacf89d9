"""The catalogue: de-dup tokens by a stable key, a bound, append-only growth, files."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.catalog import SidCatalog

pytestmark = pytest.mark.unit


def vectors(n, size=4):
    return np.random.default_rng(0).normal(size=(n, size)).astype(np.float32)


def by_ad(catalog):
    return {a: tuple(c) for a, c in zip(catalog.ad_ids, catalog.full_codes.tolist(), strict=True)}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=30, unique=True).filter(
        lambda ids: all(c < "\ud800" or c > "\udfff" for i in ids for c in i)
    ),
    st.integers(0, 2**16),
)
def test_tokens_do_not_depend_on_row_order(ids, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (len(ids), 2))
    other = rng.integers(0, 3, (len(ids), 9, 2))
    emb = vectors(len(ids))
    shuffle = rng.permutation(len(ids))
    first = SidCatalog.build(ids, codes, emb, 3, 64, other)
    second = SidCatalog.build(
        [ids[i] for i in shuffle], codes[shuffle], emb[shuffle], 3, 64, other[shuffle]
    )
    assert list(first.ad_ids) == sorted(ids)
    np.testing.assert_array_equal(first.full_codes, second.full_codes)
    assert first.fingerprint == second.fingerprint
    assert len({tuple(c) for c in first.full_codes.tolist()}) == len(ids)


def oracle(ids, codes, other, bound):
    """The rule as a plain loop: rounds of choices, ads in id order within a round."""
    used, placed = {}, {}
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    for choice in range(1 + other.shape[1]):
        for i in order:
            if i in placed:
                continue
            code = tuple((codes[i] if choice == 0 else other[i, choice - 1]).tolist())
            if used.get(code, 0) < bound:
                placed[i] = (*code, used.get(code, 0))
                used[code] = used.get(code, 0) + 1
    return {ids[i]: placed[i] for i in placed}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 25), st.integers(1, 4), st.integers(0, 2**16))
def test_overflow_takes_the_next_best_codes(n, bound, seed):
    rng = np.random.default_rng(seed)
    ids = [f"ad{i}" for i in rng.permutation(n)]
    codes = rng.integers(0, 3, (n, 2))
    other = rng.integers(0, 3, (n, 4, 2))
    want = oracle(ids, codes, other, bound)
    if len(want) < n:
        with pytest.raises(ValueError, match=f"max_dedup={bound}"):
            SidCatalog.build(ids, codes, vectors(n), 3, bound, other)
        return
    catalog = SidCatalog.build(ids, codes, vectors(n), 3, bound, other)
    assert by_ad(catalog) == want
    moved = sum(tuple(codes[i]) != want[ids[i]][:2] for i in range(n))
    assert catalog.quality["reassigned_ads"] == moved


def test_quality_is_of_the_codes_as_given():
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 2]])
    other = np.full((4, 1, 2), 2)
    catalog = SidCatalog.build(list("abcd"), codes, vectors(4), 3, 2, other)
    quality = catalog.quality
    assert quality["collision_share"] == 0.75
    assert quality["largest_group"] == 3
    assert quality["distinct_sids"] == 2
    assert quality["used_codes"] == [2, 2]
    assert quality["reassigned_ads"] == 1
    np.testing.assert_allclose(quality["entropy_nats"], -0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_extension_never_changes_an_ad():
    rng = np.random.default_rng(3)
    ids = [f"m{i:03d}" for i in range(60)]
    codes = rng.integers(0, 3, (60, 2))
    base = SidCatalog.build(ids, codes, vectors(60), 3, max_dedup=32)
    # New ids sort before, between and after the old ones.
    new = [f"{p}{i:03d}" for p in "amz" for i in range(100, 110)]
    more = base.extend(new, rng.integers(0, 3, (30, 2)), vectors(30))
    before, after = by_ad(base), by_ad(more)
    assert {a: after[a] for a in ids} == before
    assert len(set(after.values())) == 90
    assert list(more.ad_ids) == sorted([*ids, *new])
    assert more.fingerprint != base.fingerprint


def test_extension_refuses_known_ads_and_other_shapes():
    base = SidCatalog.build(["a", "b"], [[0, 1], [1, 1]], vectors(2), 2)
    with pytest.raises(ValueError, match="in the catalogue already"):
        base.extend(["c", "a"], [[0, 0], [0, 0]], vectors(2))
    with pytest.raises(ValueError, match="2 levels"):
        base.extend(["c"], [[0, 0, 0]], vectors(1))


def test_rows_of_any_shape():
    catalog = SidCatalog.build(["b", "a", "é"], [[0], [0], [0]], vectors(3), 1)
    np.testing.assert_array_equal(catalog.rows([["a", ""], ["é", "b"]]), [[0, -1], [2, 1]])
    assert catalog.rows(["a"]).dtype == np.int32


@pytest.mark.parametrize("n", [1, 3])
def test_tiny_catalogues(n, tmp_path):
    catalog = SidCatalog.build([str(i) for i in range(n)], np.zeros((n, 3), int), vectors(n), 8)
    assert catalog.dedup.tolist() == list(range(n))
    catalog.save(tmp_path)
    assert len(SidCatalog.load(tmp_path)) == n


def test_save_and_load(tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"é{i}" for i in range(50)]
    codes = rng.integers(0, 4, (50, 3))
    catalog = SidCatalog.build(ids, codes, vectors(50), 4, fingerprints={"tokenizer": "abc"})
    catalog.save(tmp_path / "catalog")
    assert {p.name for p in (tmp_path / "catalog").iterdir()} == {
        "catalog.parquet",
        "quality.json",
        "manifest.json",
    }
    loaded = SidCatalog.load(tmp_path / "catalog")
    assert loaded.fingerprints == catalog.fingerprints
    assert loaded.fingerprints["tokenizer"] == "abc"
    assert loaded.quality == catalog.quality
    assert loaded.level_sizes == (4, 4, 4, 64)
    for field in ("ad_ids", "codes", "dedup", "embeddings"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(catalog, field))
        assert getattr(loaded, field).dtype == getattr(catalog, field).dtype


def test_interrupted_or_mixed_files_are_refused(tmp_path):
    one = SidCatalog.build(["a", "b"], [[0], [1]], vectors(2), 2)
    two = SidCatalog.build(["a", "b"], [[1], [1]], vectors(2), 2)
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    (tmp_path / "two" / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="interrupted"):
        SidCatalog.load(tmp_path / "two")
    (tmp_path / "one" / "catalog.parquet").write_bytes(
        (tmp_path / "two" / "catalog.parquet").read_bytes()
    )
    with pytest.raises(ValueError, match="isn't the table"):
        SidCatalog.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ad_ids": ["a", "b", "a"]}, "1 duplicate ad_ids, e.g. 'a'"),
        ({"ad_ids": ["a", "b", ""]}, "empty strings"),
        ({"ad_ids": [1, 2, 3]}, "must all be str"),
        ({"ad_ids": ["a", "b", None]}, "must all be str"),
        ({"ad_ids": []}, "non-empty"),
        ({"codes": np.array([[0], [1], [2]])}, "codebook_size=2"),
        ({"codes": np.array([[0], [1], [-1]])}, "from -1"),
        ({"codes": np.array([[0], [1]])}, "3 rows"),
        ({"codes": np.array([0, 1, 1])}, "2 axes"),
        ({"codes": np.array([[0.0], [1.0], [1.0]])}, "must be integers"),
        ({"embeddings": np.zeros((2, 4))}, "one row per ad"),
        ({"embeddings": np.array([[0.0], [np.nan], [1.0]])}, "not finite, e.g. of ad 'b'"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"max_dedup": 0}, "max_dedup"),
        ({"alternatives": np.zeros((3, 2), int)}, "3 axes"),
        ({"alternatives": np.zeros((3, 2, 2), int)}, "like the codes"),
        ({"max_dedup": 1}, "none of their 0 alternatives"),
    ],
)
def test_bad_input_is_named(changes, message):
    good = {
        "ad_ids": ["a", "b", "c"],
        "codes": np.array([[0], [1], [1]]),
        "embeddings": np.zeros((3, 4)),
        "codebook_size": 2,
    }
    with pytest.raises(ValueError, match=message):
        SidCatalog.build(**{**good, **changes})


def test_two_hundred_thousand_ads_take_seconds():
    rng = np.random.default_rng(0)
    n = 200_000
    ids = [f"ad-{i:08d}" for i in rng.permutation(n)]
    codes = rng.integers(0, 64, (n, 3))
    start = time.perf_counter()
    catalog = SidCatalog.build(ids, codes, np.zeros((n, 8), np.float32), 64, 16)
    assert (catalog.rows(ids[:1000]) >= 0).all()
    assert time.perf_counter() - start < 20
