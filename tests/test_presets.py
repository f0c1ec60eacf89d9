import dataclasses
import typing

import keras
import numpy as np
import pytest

from pipeline import config
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM, AdSchema, FeatureSizes
from sid_tfx.presets import PRESETS, build, preset
from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue, pairs

pytestmark = pytest.mark.unit

JOINED = dataclasses.replace(SCHEMA, dense={**SCHEMA.dense, COLLABORATIVE: COLLABORATIVE_DIM})
VECTORS = AdSchema(dense={"image_embedding": 8})
TRAINED = [name for name, chosen in PRESETS.items() if chosen.trains]
WITH_HAMR = [name for name in TRAINED if "repulsion_full" in PRESETS[name].loss_weights]


def small(name: str, **arguments) -> SidTokenizer:
    """A preset with a small encoder; its steps are not worth tracing a graph for."""
    chosen = PRESETS[name]
    encoder = {"parallel": SMALL_TOWER, "joint": SMALL_TOWER}.get(chosen.encoder[0], {})
    if chosen.encoder[0] == "vectors" and chosen.trains:
        encoder = {"code_dim": 8, "hidden": (16,)}
    if name == "improved_vqgan":
        arguments["quantizer"] = {"factor_dim": 4}
    if name == "letter":
        arguments["diversity_clusters"] = 4
    schema = JOINED if chosen.collaborative else SCHEMA
    model = SidTokenizer.from_preset(
        name, schema, SIZES, codebook_size=16, encoder=encoder, **arguments
    )
    model.compile(model.optimizer, run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def ads():
    features = catalogue(120)
    vectors = np.random.default_rng(3).normal(size=(120, COLLABORATIVE_DIM))
    features[COLLABORATIVE] = vectors.astype("float32")
    features[COLLABORATIVE][:10] = 0
    return features


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_encodes_and_is_saved(name, ads, tmp_path):
    model = small(name)
    history = model.fit(PairBatches(ads, pairs(ads, 60)), epochs=1, verbose=0).history
    assert bool(history) == PRESETS[name].trains
    out = model.encode(ads)
    codes = out["codes"]
    assert codes.shape == (120, 3)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < 16
    assert all(np.isfinite(values).all() for values in out.values())
    np.testing.assert_array_equal(model.ranked_codes(ads, 3)[:, 0], codes)
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.models.load_model(tmp_path / "tokenizer.keras")
    np.testing.assert_array_equal(loaded.encode(ads)["codes"], codes)
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize("name", TRAINED)
def test_hamr_plugs_into_every_preset_that_trains_by_one_argument(name, ads):
    model = small(name, repulsion=True)
    assert "repulsion" in model.objective.terms
    batch = PairBatches(ads, pairs(ads, 60), batch_size=60)[0][0]
    outputs = model(batch, training=True)
    # All codes equal: every pair that is no pair of the batch is a conflict.
    outputs["codes"] = np.zeros((120, 3), "int32")
    assert float(model.objective(batch, outputs)["repulsion"]) > 0


@pytest.mark.parametrize(
    "name", [name for name in TRAINED if "repulsion_full" in PRESETS[name].loss_weights]
)
def test_hamr_is_taken_away_by_the_same_argument(name):
    assert "repulsion" in small(name).objective.terms
    assert "repulsion" not in small(name, repulsion=False).objective.terms


def test_hamr_is_refused_where_nothing_trains():
    with pytest.raises(ValueError, match=r"repulsion_full.*two-stage.*no gradient.*rq_vae"):
        small("rq_kmeans", repulsion=True)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rq_vae", {"loss_weights": {"summary": 0.1}}, "summary.*no states"),
        ("rq_vae", {"loss_weights": {"level_contrastive": 1}}, "no vector per level"),
        ("quasid", {"loss_weights": {"embedding_contrastive": 1}}, "dual_tower acts on that"),
        ("unisid", {"loss_weights": {"quantization": 1}}, "ParallelQuantizer"),
        ("quasid", {"loss_weights": {"hamr": 1}}, "no term .*hamr.*repulsion_full"),
        ("quasid", {"loss_weights": {"dual_tower": -1}}, "dual_tower.* -1"),
        ("unisid", {"repel_residual": True}, "repel_residual.*no residual"),
    ],
)
def test_terms_that_a_preset_cannot_have_are_refused_with_the_reason(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        small(name, **arguments)


def test_parts_of_different_size_are_refused():
    encoder = small("rq_vae").encoder
    quantizer = small("joint").quantizer
    with pytest.raises(ValueError, match=r"vectors of 8 for 3 levels.*takes 96"):
        SidTokenizer(encoder, quantizer, {"reconstruction": 1.0})


def test_vectors_are_asked_for_where_the_ads_have_none():
    with pytest.raises(ValueError, match=r"'content' needs a dense column.*joint or unisid"):
        build("rq_vae", AdSchema(text={"title": 6}), FeatureSizes(text=60))
    with pytest.raises(ValueError, match="collaborative_embedding"):
        build("rq_kmeans_joined", VECTORS, FeatureSizes())


def test_alignment_names_the_feature_it_needs(ads):
    model = small("letter")
    bare = {name: values for name, values in ads.items() if name != COLLABORATIVE}
    with pytest.raises(ValueError, match=r"alignment.*collaborative_embedding"):
        model.fit(PairBatches(bare, pairs(bare, 60), batch_size=60), epochs=1, verbose=0)


def test_unknown_presets_are_refused_with_the_names():
    with pytest.raises(ValueError, match=r"'quaisd'.*Did you mean 'quasid'.*rq_kmeans"):
        preset("quaisd")


def test_codes_of_unisid_follow_the_logits_and_get_no_gradient(ads):
    model = small("unisid")
    out = model.encode(ads)
    logits = out["z"].reshape(120, 3, 16)
    np.testing.assert_array_equal(out["codes"], logits.argmax(axis=-1))


def test_residual_kmeans_quantizes_the_given_vectors(ads):
    model = small("rq_kmeans")
    model.fit(PairBatches(ads, pairs(ads, 60)), verbose=0)
    out = model.encode(ads)
    unit = ads["image_embedding"] / np.linalg.norm(ads["image_embedding"], axis=1, keepdims=True)
    np.testing.assert_allclose(out["z"], unit, atol=1e-6)
    error = np.square(out["sid_embedding"] - unit).sum(axis=1).mean()
    assert error < 0.3 * np.square(unit - unit.mean(axis=0)).sum(axis=1).mean()


def test_the_configuration_knows_the_presets():
    assert set(typing.get_args(config.Preset)) == set(PRESETS)
