import dataclasses
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import config
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.features import (
    COLLABORATIVE,
    COLLABORATIVE_DIM,
    ESCAPE_CODE,
    AdSchema,
    FeatureSizes,
)
from sid_tfx.presets import PRESETS, build, preset
from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue, pairs

pytestmark = pytest.mark.unit

JOINED = dataclasses.replace(SCHEMA, dense={**SCHEMA.dense, COLLABORATIVE: COLLABORATIVE_DIM})
FIELDS = dataclasses.replace(SCHEMA, dense={})
TOWER = {"kind": "tower", **SMALL_TOWER, "layers": 1, "embedding_dim": 12}
VECTORS = AdSchema(dense={"image_embedding": 8})
TRAINED = [name for name, chosen in PRESETS.items() if chosen.trains]
ON_VECTORS = [name for name in TRAINED if PRESETS[name].encoder[0] == "vectors"]
WITH_HAMR = [name for name in TRAINED if "repulsion_full" in PRESETS[name].loss_weights]


def small(name: str, **arguments) -> SidTokenizer:
    """A preset with a small encoder; its steps are not worth tracing a graph for."""
    chosen = PRESETS[name]
    encoder = {"parallel": SMALL_TOWER, "joint": SMALL_TOWER}.get(chosen.encoder[0], {})
    if chosen.encoder[0] == "vectors" and chosen.trains:
        encoder = {"code_dim": 8, "hidden": (16,), **arguments.pop("encoder", {})}
    if name == "improved_vqgan":
        arguments["quantizer"] = {"factor_dim": 4}
    if name == "letter":
        arguments.setdefault("diversity_clusters", 4)
    arguments.setdefault("schema", JOINED if chosen.collaborative else SCHEMA)
    arguments.setdefault("encoder", encoder)
    model = SidTokenizer.from_preset(name, sizes=SIZES, codebook_size=16, **arguments)
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


@pytest.mark.parametrize("name", ON_VECTORS)
def test_every_preset_on_vectors_trains_on_a_tower_in_their_place(name, ads, tmp_path):
    model = small(name, schema=FIELDS, encoder=TOWER)
    assert model.encoder.hidden == (16,)
    assert model.objective.loss_weights["embedding_contrastive"] == 1.0
    history = model.fit(PairBatches(ads, pairs(ads, 60)), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    out = model.encode({name: ads[name] for name in FIELDS.input_features()})
    assert out["codes"].shape == (120, 3)
    assert out["embedding"].shape == out["sid_embedding"].shape == (120, 12)
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.models.load_model(tmp_path / "tokenizer.keras")
    np.testing.assert_array_equal(loaded.encode(ads)["codes"], out["codes"])
    assert loaded.get_config() == model.get_config()


def test_a_tower_takes_the_presets_arguments_and_its_loss_is_the_users_to_change():
    model = build("quasid", FIELDS, SIZES, encoder={"kind": "tower"})
    assert model.encoder.hidden == (512, 256, 128)
    assert [layer.units for layer in model.decoder] == [128, 256, 512, 64]
    weights = {"embedding_contrastive": 0.0}
    model = build("quasid", FIELDS, SIZES, encoder={"kind": "tower"}, loss_weights=weights)
    assert "embedding_contrastive" not in model.objective.terms
    own = build("quasid", VECTORS, SIZES, encoder={"kind": "vectors"})
    assert own.encoder.columns == ["image_embedding"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("joint", "tower", r"'joint' must be of kind 'joint', got 'tower'.*JointEncoder.*quasid"),
        ("unisid", "vectors", "must be of kind 'parallel', got 'vectors'.*ParallelEncoder"),
        ("rq_kmeans", "tower", r"given vectors as they are \(two-stage\).*quasid or rq_vae"),
        ("quasid", "joint", "must be of kind 'vectors' or 'tower', got 'joint'.*joint and unisid"),
        ("quasid", "towre", "got 'towre'"),
    ],
)
def test_a_kind_of_encoder_that_a_preset_cannot_have_is_refused(name, kind, message):
    with pytest.raises(ValueError, match=message):
        build(name, SCHEMA, SIZES, encoder={"kind": kind})


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
        ("letter", {"quantizer": {"learning": "ema"}}, "diversity.*ema.*learning='gradient'"),
        ("letter", {"diversity_clusters": 9}, r"diversity_clusters must be in \[1, 8\].*got 9"),
        ("rq_vae", {"loss_weights": {"quantization": 0}}, "quantization.*codebook.*'ema'.*refits"),
        ("rq_vae_rotation", {"loss_weights": {"quantization": 0}}, "quantization.*above 0 here"),
        ("improved_vqgan", {"loss_weights": {"quantization": 0}}, "quantization.*above 0 here"),
        ("unisid", {"refits": (0.5,)}, r"refits=\(0.5,\).*ParallelQuantizer.*Set refits=\(\)"),
        (
            "rq_vae",
            {"refits": (0.5,), "quantizer": {"initialization": "random"}},
            "refits.*move nothing.*initialization='kmeans'",
        ),
        ("rq_kmeans", {"mine_conflicts": True}, "mine_conflicts=True: without a loss.*=False"),
        ("rq_kmeans", {"repel_residual": True}, "repel_residual=True: .* Set repel_residual=False"),
        ("rq_kmeans", {"mask_conflicts": False}, "Set mask_conflicts=True, or .* rq_vae"),
        ("rq_kmeans", {"refits": [0.5]}, r"refits=\(0.5,\): .* Set refits=\(\)"),
    ],
)
def test_what_a_preset_cannot_have_is_refused_with_the_reason(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        small(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rq_vae", {"refits": (1.0,)}),
        ("rq_vae", {"quantizer": {"learning": "ema"}}),
        ("rq_vae_gumbel", {}),
        ("letter", {}),
    ],
)
def test_a_codebook_that_moves_without_its_own_loss_is_taken(name, arguments):
    model = small(name, loss_weights={"quantization": 0.0}, **arguments)
    assert "quantization" not in model.objective.terms


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient": "rotation"},
        {"factor_dim": 4},
        {"factor_dim": 4, "gradient": "rotation"},
        {"codebook": "linear", "assignment": "cosine"},
    ],
)
@pytest.mark.parametrize("term", ["quantization", "diversity", "others"])
def test_which_losses_reach_the_codebook(options, term, ads):
    weights = {"reconstruction": 1.0, "dual_tower": 1.0, "alignment": 1.0, "escape": 1.0}
    weights |= {"repulsion_full": 1.0, "repulsion_partial": 1.0, "quantization": 0.0}
    model = small(
        "rq_vae",
        quantizer=options,
        loss_weights=weights if term == "others" else {"quantization": 0.0, term: 1.0},
        mine_conflicts=True,
        repel_residual=True,
        refits=(1.0,),
        diversity_clusters=4,
    )
    model.initialize(ads)
    if term == "diversity":
        model.objective.diversity.refresh(model.quantizer.codebooks)
    batch = PairBatches(ads, pairs(ads, 60), batch_size=60)[0][0]
    batch[ESCAPE_CODE] = np.arange(120, dtype="int32") % 16
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        value = sum(model.objective(batch, outputs).values())
    found = tape.gradient(value, [w.value for w in model.quantizer.codebook.trainable_weights])
    moved = any(gradient is not None and np.abs(gradient).max() > 0 for gradient in found)
    assert moved == (term != "others")


def test_parts_of_different_size_are_refused():
    encoder = small("rq_vae").encoder
    quantizer = small("joint").quantizer
    with pytest.raises(ValueError, match=r"vectors of 8 for 3 levels.*takes 96"):
        SidTokenizer(encoder, quantizer, {"reconstruction": 1.0})


def test_vectors_are_asked_for_where_the_ads_have_none():
    with pytest.raises(ValueError, match=r"needs a dense column.*joint or unisid.*'kind': 'tower'"):
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
