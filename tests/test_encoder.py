import keras
import numpy as np
import pytest

from sid_tfx.encoders.ad_encoder import AdEncoder
from sid_tfx.features import AdSchema, FeatureSizes, empty_features
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue

pytestmark = pytest.mark.unit


def encoder(**arguments):
    return AdEncoder(SCHEMA, SIZES, **{"levels": 3, "seed": 3, **SMALL_TOWER, **arguments})


@pytest.fixture(scope="module")
def ads():
    return catalogue(10)


def test_returns_a_state_per_sid_token_and_one_for_the_embedding(ads):
    states = encoder()(ads)
    assert states.sid_states.shape == (10, 3, 16)
    assert states.embedding_state.shape == (10, 16)


@pytest.mark.parametrize("layers", [1, 2])
def test_sid_tokens_are_causal_and_the_embedding_sees_them_all(ads, layers):
    layer = encoder(layers=layers)
    before = layer(ads)
    positions = np.asarray(layer.positions).copy()
    positions[layer.field_tokens + 1] += np.linspace(-1.0, 1.0, 16)
    layer.positions.assign(positions)
    after = layer(ads)
    first, second, third = np.abs(before.sid_states - after.sid_states).max(axis=(0, 2))
    assert first < 1e-6
    assert second > 1e-3
    assert third > 1e-5
    assert np.abs(before.embedding_state - after.embedding_state).max() > 1e-5


def test_sid_states_do_not_see_the_embedding_token(ads):
    layer = encoder()
    before = layer(ads)
    positions = np.asarray(layer.positions).copy()
    positions[-1] += np.linspace(-1.0, 1.0, 16)
    layer.positions.assign(positions)
    np.testing.assert_allclose(layer(ads).sid_states, before.sid_states, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SCHEMA.input_features()))
def test_every_input_matters(ads, name):
    layer = encoder()
    changed = {**ads, name: np.zeros_like(ads[name])}
    assert np.abs(layer(ads).embedding_state - layer(changed).embedding_state).max() > 1e-5


def test_a_missing_field_is_not_seen(ads):
    layer = encoder()
    absent = {**ads, "numeric_present": np.zeros((10, 1), "float32")}
    other = {**absent, "numeric": absent["numeric"] + 5.0}
    np.testing.assert_array_equal(layer(absent).sid_states, layer(other).sid_states)


def test_padding_of_a_title_does_not_matter():
    schema, sizes = AdSchema(text={"title": 6}), FeatureSizes(text=20)
    layer = AdEncoder(schema, sizes, levels=2, **SMALL_TOWER)
    tokens = np.array([[3, 4, 0, 0, 0, 0]])
    before = layer({"title_tokens": tokens}).sid_states
    layer.words.embedding.embeddings.assign(
        np.where(np.arange(20)[:, None] == 0, 7.0, layer.words.embedding.embeddings)
    )
    np.testing.assert_allclose(layer({"title_tokens": tokens}).sid_states, before, atol=1e-5)


def test_an_ad_without_any_field_is_finite():
    states = encoder()(empty_features(SCHEMA, 2))
    assert np.isfinite(states.sid_states).all()
    assert np.isfinite(states.embedding_state).all()


def test_the_summary_is_never_read(ads):
    layer = encoder()
    changed = {**ads, "summary_tokens": ads["summary_tokens"] + 1}
    np.testing.assert_array_equal(layer(ads).sid_states, layer(changed).sid_states)


def test_rows_do_not_influence_each_other(ads):
    layer = encoder()
    one = {name: values[4:5] for name, values in ads.items()}
    np.testing.assert_allclose(layer(one).sid_states, layer(ads).sid_states[4:5], atol=1e-5)


def test_dropout_makes_two_views_in_training_only(ads):
    layer = encoder(dropout=0.0, field_dropout=0.3)
    np.testing.assert_array_equal(layer(ads).sid_states, layer(ads).sid_states)
    views = [np.asarray(layer(ads, training=True).sid_states) for _ in range(2)]
    assert np.abs(views[0] - views[1]).max() > 1e-3


def test_a_seed_gives_the_same_weights_and_another_others(ads):
    same = encoder()(ads).sid_states
    np.testing.assert_array_equal(encoder()(ads).sid_states, same)
    assert np.abs(encoder(seed=4)(ads).sid_states - same).max() > 1e-3


def test_config_round_trip():
    layer = encoder(layers=3, text_tokens=4)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


def test_a_missing_feature_is_named(ads):
    with pytest.raises(ValueError, match="image_embedding"):
        encoder()({name: v for name, v in ads.items() if name != "image_embedding"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"heads": 3}, "heads=3 and dim=16"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"field_dropout": -0.1}, "field_dropout must be in"),
        ({"text_tokens": 0}, "text_tokens"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder(**arguments)
