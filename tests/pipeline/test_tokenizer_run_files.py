"""The tokenizer's `run_fn` on files as Transform and InteractionBuilder leave them, by preset."""

import numpy as np
import pytest
import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from pipeline import tokenizer_run
from pipeline.config import TokenizerConfig
from sid_tfx.bundle import load_bundle
from sid_tfx.features import AdSchema
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue, pairs

pytestmark = pytest.mark.unit

ADS = 60
MLP = {"code_dim": 8, "hidden": (16,)}


def write(path, rows):
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row in rows:
            example = tf.train.Example()
            for name, value in row.items():
                feature, values = example.features.feature[name], np.ravel(value)
                if values.dtype.kind == "U":
                    feature.bytes_list.value.extend(v.encode() for v in values)
                elif values.dtype.kind == "i":
                    feature.int64_list.value.extend(values)
                else:
                    feature.float_list.value.extend(values)
            writer.write(example.SerializeToString())
    return str(path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains an epoch on files; returns the tokenizer and metadata that it left."""
    features, ids = catalogue(ADS), [f"ad{row:03}" for row in range(ADS)]
    ads = [
        {"ad_id": ids[row], **{name: values[row] for name, values in features.items()}}
        for row in np.random.default_rng(0).permutation(ADS)
    ]
    mined = np.unique(pairs(features, 80), axis=0)
    mined = mined[mined[:, 0] != mined[:, 1]]
    rows = [
        {"trigger": ids[trigger], "target": ids[target], "score": 1.0 / (row + 1)}
        for row, (trigger, target) in enumerate(mined)
    ]
    ad_files = write(tmp_path / "ads" / "part.gz", ads)
    write(tmp_path / "pairs" / "Split-train" / "part.gz", rows)
    monkeypatch.setattr(tokenizer_run, "feature_sizes", lambda *_: SIZES)
    # Deterministic kernels are for a process of its own: the setting can't be taken back.
    monkeypatch.setattr(tokenizer_run, "make_deterministic", lambda seed: None)

    def train(preset, schema=SCHEMA, **settings):
        config = TokenizerConfig(
            preset=preset, codebook_size=16, epochs=1, batch_pairs=30, **settings
        )
        tokenizer_run.run_fn(
            FnArgs(
                train_files=[ad_files],
                transform_graph_path=str(tmp_path / "graph"),
                serving_model_dir=str(tmp_path / "model"),
                model_run_dir=str(tmp_path / "logs"),
                custom_config={
                    "schema": schema.to_json(),
                    "seed": 1,
                    "tokenizer": config.model_dump(),
                    "inputs": {"pairs": str(tmp_path / "pairs")},
                },
            )
        )
        tokenizer, metadata = load_bundle(str(tmp_path / "model"))
        assert metadata["preset"] == preset
        assert metadata["summary"].startswith(f"{ADS} ads, {len(mined)} pairs, ")
        codes = tokenizer.encode(features)["codes"]
        assert codes.shape == (ADS, 3)
        assert len(np.unique(codes, axis=0)) > ADS / 3
        return tokenizer, metadata

    return train


def test_letter_aligns_with_vectors_made_of_the_pairs(run):
    arguments = {"diversity_clusters": 4, "decoder_units": (16,)}
    _, metadata = run("letter", encoder=MLP, arguments=arguments)
    # If no ad had a collaborative vector, it would be 0.
    assert metadata["history"]["alignment"][0] > 0.01
    assert "1 epochs, loss" in metadata["summary"]
    assert metadata["embedding_dim"] == 8


def test_residual_kmeans_is_fitted_and_nothing_is_trained(run):
    tokenizer, metadata = run("rq_kmeans")
    assert metadata["history"] == {}
    assert "codebooks from data, nothing to train" in metadata["summary"]
    assert float(tokenizer.quantizer.initialized) == 1.0


def test_quasid_reads_the_fields_of_ads_without_vectors(run):
    fields = AdSchema.from_dict({**SCHEMA.to_dict(), "dense": {}})
    tower = {"kind": "tower", **SMALL_TOWER, **MLP, "layers": 1, "embedding_dim": 12}
    _, metadata = run("quasid", fields, encoder=tower)
    assert metadata["history"]["dual_tower"][0] > 0
    assert metadata["embedding_dim"] == 12
