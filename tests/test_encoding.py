import numpy as np
import pyarrow.parquet as pq
import pytest

from sid_tfx.encoding import BatchEncoder, encode_stream, encode_to_parquet
from tests.ad_fixtures import catalogue, small_tokenizer

pytestmark = pytest.mark.unit

ROWS = 150
SIZES = (1, 64, 5, 80)


@pytest.fixture(scope="module")
def tokenizer():
    model = small_tokenizer()
    model.initialize(catalogue(ROWS))
    return model


def batches(features, sizes=SIZES):
    ends = np.cumsum(sizes)
    assert ends[-1] == len(features["category"])
    for start, end in zip(ends - sizes, ends, strict=True):
        yield {name: values[start:end] for name, values in features.items()}


def test_a_stream_gives_what_encode_gives_batch_by_batch(tokenizer):
    features = catalogue(ROWS)
    parts = list(encode_stream(tokenizer, batches(features), 32, ("codes", "embedding", "z")))
    assert [len(part["codes"]) for part in parts] == list(SIZES)
    expected = tokenizer.encode(features, batch_size=32)
    assert parts[0].keys() == {"codes", "embedding", "z"}
    for name in parts[0]:
        found = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(found, expected[name], atol=1e-5)
        assert found.dtype == expected[name].dtype


def test_an_ads_outputs_are_the_same_to_the_last_bit_in_any_company(tokenizer):
    features = catalogue(ROWS)
    encoder = BatchEncoder(tokenizer, 64, ("codes", "z", "sid_embedding"), alternatives=4)
    whole = encoder(features)
    for row in (0, 70, 149):
        alone = encoder({name: values[row : row + 1] for name, values in features.items()})
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], whole[name][row])


def test_batches_side_by_side_give_what_one_after_the_other_gives(tokenizer):
    features = catalogue(ROWS)
    one, several = (BatchEncoder(tokenizer, 8, threads=threads) for threads in (1, 4))
    expected = one(features)
    for _ in range(3):
        found = several(features)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_alternatives_are_the_ranked_codes(tokenizer):
    features = catalogue(ROWS)
    found = BatchEncoder(tokenizer, 64, ("codes",), alternatives=4)(features)
    ranked = tokenizer.ranked_codes(features, 5)
    np.testing.assert_array_equal(found["alternatives"], ranked[:, 1:])
    np.testing.assert_array_equal(found["codes"], ranked[:, 0])


def test_a_stream_takes_a_batch_only_when_it_is_asked_for_the_next(tokenizer):
    taken = []

    def source():
        for number, batch in enumerate(batches(catalogue(ROWS))):
            taken.append(number)
            yield batch

    stream = encode_stream(tokenizer, source(), 64)
    assert taken == []
    next(stream)
    assert taken == [0]


def test_shards_hold_every_ad_once_in_order(tokenizer, tmp_path):
    features = {**catalogue(ROWS), "ad_id": np.array([f"ad{row}" for row in range(ROWS)])}
    folder = tmp_path / "new" / "codes"
    files = encode_to_parquet(tokenizer, batches(features), folder, 64, rows_per_shard=65)
    assert [path.name for path in files] == ["part-00000.parquet", "part-00001.parquet"]
    assert sorted(folder.iterdir()) == files
    assert [pq.read_metadata(path).num_rows for path in files] == [65, 85]
    table = pq.read_table(folder)
    assert table["ad_id"].to_pylist() == features["ad_id"].tolist()
    expected = tokenizer.encode(features)
    np.testing.assert_array_equal(table["codes"].to_pylist(), expected["codes"])
    np.testing.assert_allclose(table["embedding"].to_pylist(), expected["embedding"], atol=1e-5)


def test_what_was_not_finished_is_not_left(tokenizer, tmp_path):
    def source():
        yield {**catalogue(3), "ad_id": ["a", "b", "c"]}
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        encode_to_parquet(tokenizer, source(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="batch_rows must be at least 1, got 0"):
        BatchEncoder(tokenizer, 0)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        BatchEncoder(tokenizer, threads=0)
    with pytest.raises(ValueError, match=r"outputs must be some of .* got \['code'\]"):
        BatchEncoder(tokenizer, outputs=("code",))
    with pytest.raises(ValueError, match="alternatives must not be negative, got -1"):
        BatchEncoder(tokenizer, alternatives=-1)
    others = tokenizer.codebook_size**tokenizer.levels - 1
    with pytest.raises(ValueError, match=f"at most {others}"):
        BatchEncoder(tokenizer, alternatives=others + 1)
    with pytest.raises(ValueError, match="hold no ad"):
        BatchEncoder(tokenizer)(catalogue(0))
    with pytest.raises(ValueError, match=r"needs the features .*'category'"):
        BatchEncoder(tokenizer)({"advertiser": np.ones(2, int)})
    with pytest.raises(ValueError, match="needs 'ad_id'"):
        encode_to_parquet(tokenizer, [catalogue(2)], tmp_path)
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1"):
        encode_to_parquet(tokenizer, [], tmp_path, rows_per_shard=0)
    (tmp_path / "part-00000.parquet").touch()
    with pytest.raises(ValueError, match=r"holds part-\*.parquet already"):
        encode_to_parquet(tokenizer, [], tmp_path)
