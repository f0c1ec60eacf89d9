"""SidAssigner: Beam's batches and order leave no trace in a catalogue."""

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.artifacts import SidCatalog as CatalogArtifact
from components.artifacts import get_summary
from components.refusal import Refused
from components.sid_assigner.executor import Executor
from sid_tfx.bundle import save_bundle
from sid_tfx.catalog import SidCatalog
from tests.ad_fixtures import catalogue, small_tokenizer

pytestmark = pytest.mark.unit
ADS = 700


def _write_examples(folder, features, order):
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "transformed-0.gz"), "GZIP") as writer:
        for row in order:
            feature = {
                "ad_id": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[f"ad{row:04d}".encode()])
                )
            }
            for name, values in features.items():
                flat = np.atleast_1d(values[row])
                kind = "float" if flat.dtype == np.float32 else "int64"
                feature[name] = tf.train.Feature(
                    **{
                        f"{kind}_list": getattr(tf.train, f"{kind.capitalize()}List")(
                            value=flat.tolist()
                        )
                    }
                )
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    model = small_tokenizer()
    model.initialize(catalogue(ADS))
    artifact = standard_artifacts.Model()
    artifact.uri = str(tmp_path_factory.mktemp("tokenizer"))
    metadata = {"levels": 3, "codebook_size": 16, "embedding_dim": 16}
    save_bundle(model, f"{artifact.uri}/Format-Serving", metadata)
    return model, artifact


def _assign(tmp_path, tokenizer, order, max_dedup=64, previous=None):
    folder = tmp_path / "examples"
    _write_examples(folder / "Split-all", catalogue(ADS), order)
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    examples.split_names = '["all"]'
    catalog = CatalogArtifact()
    catalog.uri = str(tmp_path / "catalog")
    context = Executor.Context(tmp_dir=str(tmp_path / "tmp"), unique_id="1")
    Executor(context).Do(
        {
            "examples": [examples],
            "tokenizer": [tokenizer[1]],
            **({"previous": [previous]} if previous else {}),
        },
        {"catalog": [catalog]},
        {"max_dedup": max_dedup, "alternatives": 8},
    )
    return SidCatalog.load(catalog.uri), catalog


def test_catalogue_is_what_the_tokenizer_says_in_any_order(tmp_path, tokenizer):
    forward, artifact = _assign(tmp_path / "a", tokenizer, range(ADS))
    backward, _ = _assign(tmp_path / "b", tokenizer, reversed(range(ADS)))
    expected = tokenizer[0].encode(catalogue(ADS), batch_size=512)
    np.testing.assert_array_equal(forward.codes, expected["codes"])
    np.testing.assert_allclose(forward.embeddings, expected["embedding"], atol=1e-5)
    # The last bits of an embedding may follow an ad's place in its batch (`BatchEncoder`), and the
    # fingerprint is of every bit; the semantic IDs don't.
    np.testing.assert_array_equal(backward.ad_ids, forward.ad_ids)
    np.testing.assert_array_equal(backward.full_codes, forward.full_codes)
    np.testing.assert_allclose(backward.embeddings, forward.embeddings, atol=1e-6)
    assert get_summary(artifact).startswith("700 ads, ")


def test_every_ad_is_told_apart_within_the_bound(tmp_path, tokenizer):
    catalog, _ = _assign(tmp_path, tokenizer, range(ADS), max_dedup=2)
    assert catalog.dedup.max() <= 1
    assert len(np.unique(catalog.full_codes, axis=0)) == ADS


def test_known_ads_stay_as_they_were_and_new_ones_get_the_tokenizers_codes(tmp_path, tokenizer):
    old, previous = _assign(tmp_path / "a", tokenizer, range(600))
    new, _ = _assign(tmp_path / "b", tokenizer, range(50, ADS), max_dedup=1, previous=previous)
    np.testing.assert_array_equal(new.ad_ids, [f"ad{row:04d}" for row in range(50, ADS)])
    np.testing.assert_array_equal(new.full_codes[:550], old.full_codes[50:])
    np.testing.assert_array_equal(new.embeddings[:550], old.embeddings[50:])
    expected = tokenizer[0].encode(catalogue(ADS), batch_size=512)
    np.testing.assert_array_equal(new.codes[550:], expected["codes"][600:])
    assert new.dedup_size == old.dedup_size == 64
    assert len(np.unique(new.full_codes, axis=0)) == len(new)


def test_the_same_ads_again_give_the_same_catalogue(tmp_path, tokenizer):
    old, previous = _assign(tmp_path / "a", tokenizer, range(100))
    again, _ = _assign(tmp_path / "b", tokenizer, reversed(range(100)), previous=previous)
    assert again.fingerprint == old.fingerprint


def test_a_previous_catalogue_that_does_not_fit_is_refused(tmp_path, tokenizer):
    old, previous = _assign(tmp_path / "a", tokenizer, range(100))
    with pytest.raises(Refused, match="none of the 20 ads is among the 100"):
        _assign(tmp_path / "b", tokenizer, range(200, 220), previous=previous)
    SidCatalog.build(
        old.ad_ids, old.codes, old.embeddings, 16, fingerprints={"tokenizer": "another"}
    ).save(previous.uri)
    with pytest.raises(Refused, match="made by tokenizer another"):
        _assign(tmp_path / "c", tokenizer, range(120), previous=previous)
