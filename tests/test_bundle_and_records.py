"""Models on disk vouch for themselves; record files are read in an order of their own."""

import json

import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.bundle import load_bundle, save_bundle
from sid_tfx.datasets.records import read_features, read_pairs, read_sequences
from sid_tfx.features import AdSchema
from sid_tfx.fingerprint import fingerprint
from tests.ad_fixtures import catalogue, small_tokenizer

pytestmark = pytest.mark.unit


def _example(**features):
    def feature(values):
        values = values if isinstance(values, list) else [values]
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode() for v in values]))

    made = {name: feature(value) for name, value in features.items() if value != []}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def _write(folder, shards):
    for number, shard in enumerate(shards):
        with tf.io.TFRecordWriter(str(folder / f"part-{number}.gz"), "GZIP") as writer:
            for record in shard:
                writer.write(record)
    return str(folder / "*")


def test_bundle_round_trip_keeps_codes_and_fingerprint(tmp_path):
    model = small_tokenizer(seed=3)
    written = save_bundle(model, str(tmp_path / "model"), {"summary": "x"})
    loaded, metadata = load_bundle(str(tmp_path / "model"))
    assert metadata == written
    assert metadata["fingerprint"] == fingerprint(loaded)
    features = catalogue(50)
    np.testing.assert_array_equal(loaded.encode(features)["codes"], model.encode(features)["codes"])


def test_bundle_of_two_training_runs_is_refused(tmp_path):
    model = small_tokenizer()
    save_bundle(model, str(tmp_path), {})
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps({**metadata, "fingerprint": "0" * 16}))
    with pytest.raises(ValueError, match="not of one training run"):
        load_bundle(str(tmp_path))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_features_come_sorted_by_ad_id_whatever_the_shards(tmp_path, order):
    records = [_example(ad_id=f"ad{i}", advertiser=i + 2) for i in range(4)]
    shuffled = [records[i] for i in order]
    pattern = _write(tmp_path, [shuffled[:1], shuffled[1:]])
    ad_ids, features = read_features(pattern, AdSchema(categorical=("advertiser",)))
    assert ad_ids.tolist() == ["ad0", "ad1", "ad2", "ad3"]
    assert features["advertiser"].tolist() == [2, 3, 4, 5]


def test_sequences_keep_their_order_and_empty_histories(tmp_path):
    records = [
        _example(user_id="u2", history=["b", "a", "é"], target="c"),
        _example(user_id="u1", history=[], target="a"),
    ]
    found = read_sequences(_write(tmp_path, [records]))
    assert found.user_ids.tolist() == ["u1", "u2"]
    assert [history.tolist() for history in found.histories] == [[], ["b", "a", "é"]]
    assert found.targets.tolist() == ["a", "c"]
    assert [times.tolist() for times in found.timestamps] == [[], [0, 0, 0]], "unknown"
    assert [len(values) for values in found.events] == [0, 3]
    chosen = found.users([1])
    assert (chosen.user_ids.tolist(), len(chosen.weights)) == (["u2"], 1)


def test_no_files_are_no_users_and_no_pairs(tmp_path):
    assert read_sequences(str(tmp_path / "*")).histories == []
    assert read_pairs(str(tmp_path / "*")).triggers.tolist() == []


def test_pairs_come_sorted(tmp_path):
    records = [
        _example(trigger="b", target="a", score=1.0),
        _example(trigger="a", target="c", score=2.0),
        _example(trigger="a", target="b", score=3.0),
    ]
    found = read_pairs(_write(tmp_path, [records[:2], records[2:]]))
    assert list(zip(found.triggers, found.targets, found.scores.tolist(), strict=True)) == [
        ("a", "b", 3.0),
        ("a", "c", 2.0),
        ("b", "a", 1.0),
    ]
