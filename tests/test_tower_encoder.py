"""The tower in the place of item vectors: what trains it and what does not."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.encoders import TowerEncoder
from sid_tfx.features import AdSchema
from sid_tfx.quantizers import ResidualQuantizer
from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue, pairs

pytestmark = pytest.mark.unit

FIELDS: AdSchema = dataclasses.replace(SCHEMA, dense={})
SMALL = {**SMALL_TOWER, "layers": 1, "embedding_dim": 12, "code_dim": 6, "hidden": (10,)}


def encoder(schema=FIELDS, **arguments):
    return TowerEncoder(schema, SIZES, **{"levels": 3, "seed": 3, **SMALL, **arguments})


def quasid(**arguments):
    model = SidTokenizer.from_preset(
        "quasid", FIELDS, SIZES, codebook_size=8, encoder={"kind": "tower", **SMALL}, **arguments
    )
    model.compile(model.optimizer, run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def ads():
    return catalogue(120)


def test_the_embedding_is_a_direction_and_goes_through_the_mlp(ads):
    layer = encoder()
    latent = layer(ads)
    assert latent.vectors.shape == (120, 6)
    assert latent.embedding.shape == latent.target.shape == (120, 12)
    assert latent.states.shape == (120, 4, 16)
    assert latent.level_vectors is None
    np.testing.assert_allclose(np.linalg.norm(latent.embedding, axis=1), 1.0, rtol=1e-5)
    hidden = np.maximum(np.asarray(layer.mlp[0](latent.embedding)), 0.0)
    np.testing.assert_allclose(latent.vectors, layer.mlp[1](hidden), rtol=1e-5, atol=1e-6)


def test_given_vectors_are_one_field_of_the_tower(ads):
    layer = encoder(SCHEMA)
    changed = {**ads, "image_embedding": ads["image_embedding"][::-1]}
    assert np.abs(layer(ads).vectors - layer(changed).vectors).max() > 1e-5


def test_losses_on_the_latent_vector_train_the_tower_and_the_codes_do_not(ads):
    model = quasid()
    model.initialize(ads)
    batch = PairBatches(ads, pairs(ads, 60), batch_size=60)[0][0]
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(batch, training=True)
        # All codes equal: every pair that is no pair of the batch is a conflict.
        terms = model.objective(batch, {**outputs, "codes": np.zeros((120, 3), "int32")})
    tower, mlp = (
        [weight.value for layer in layers for weight in layer.trainable_variables]
        for layers in ([model.encoder.tower, model.encoder.embedding_head], model.encoder.mlp)
    )
    reached = {
        name: [
            any(g is not None and np.abs(g).max() > 0 for g in tape.gradient(term, part))
            for part in (tower, mlp)
        ]
        for name, term in terms.items()
    }
    assert reached == {
        "embedding_contrastive": [True, False],
        "reconstruction": [False, True],
        "quantization": [False, True],
        "dual_tower": [True, True],
        "repulsion": [True, True],
    }


def test_what_the_losses_read_is_what_is_quantized(ads):
    model = quasid()
    rows = {**ads, "ad_row": np.arange(120)}
    training, inference = model(rows, training=True), model(rows)
    np.testing.assert_array_equal(training["z"], inference["z"])
    np.testing.assert_array_equal(training["z"], training["level_inputs"][:, 0])


def test_training_lowers_the_loss_and_leaves_more_than_one_point(ads):
    model = quasid()
    batches = PairBatches(ads, pairs(ads, 100), batch_size=60)
    history = model.fit(batches, epochs=8, verbose=0).history
    for name in ("loss", "embedding_contrastive"):
        assert history[name][-1] < 0.9 * history[name][0], name
    embedding = model.encode(ads)["embedding"]
    assert np.linalg.norm(embedding.mean(axis=0)) < 0.5, "ads point everywhere"
    assert len(np.unique(model.encode(ads)["codes"], axis=0)) > 40


def test_keras_file_round_trip(ads, tmp_path):
    model = quasid()
    model.initialize(ads)
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.models.load_model(tmp_path / "tokenizer.keras")
    for name, values in model.encode(ads).items():
        np.testing.assert_array_equal(loaded.encode(ads)[name], values)
    assert loaded.get_config() == model.get_config()


def test_the_config_makes_the_same_encoder(ads):
    layer = encoder()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    np.testing.assert_array_equal(copy(ads).vectors, layer(ads).vectors)


def test_a_tower_that_nothing_trains_is_refused_unless_it_is_frozen():
    weights = {"reconstruction": 1.0, "quantization": 1.0}
    quantizer = ResidualQuantizer(3, 8, 6)
    with pytest.raises(ValueError, match=r"TowerEncoder learns from .*dual_tower.*freeze"):
        SidTokenizer(encoder(), quantizer, weights)
    frozen = encoder(trainable=False)
    assert SidTokenizer(frozen, quantizer, weights).objective.terms == list(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"code_dim": 0}, "code_dim must be at least 1, got 0"),
        ({"hidden": (8, 0)}, r"hidden\[1\] must be at least 1, got 0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"heads": 3}, "heads=3 and dim=16"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder(**arguments)
