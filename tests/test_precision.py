"""Models refuse every dtype policy but float32, wherever it comes from."""

import keras
import pytest

from sid_tfx.baselines import SasRec
from sid_tfx.encoders import VectorEncoder
from sid_tfx.features import AdSchema
from sid_tfx.precision import check_float32
from sid_tfx.quantizers import ResidualQuantizer
from sid_tfx.recommender import SidRecommender
from sid_tfx.tokenizer import SidTokenizer

pytestmark = pytest.mark.unit

WEIGHTS = {"reconstruction": 1.0, "quantization": 1.0}


@pytest.fixture
def policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def parts(**arguments):
    encoder = VectorEncoder(AdSchema(dense={"vector": 4}), code_dim=2, hidden=(), **arguments)
    return encoder, ResidualQuantizer(3, 4, 2)


def tokenizer(**arguments):
    return SidTokenizer(*parts(), WEIGHTS, **arguments)


def recommender(**arguments):
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "mlp_size": 8, "head_size": 8}
    return SidRecommender(3, 2, 4, 1, 4, **sizes, **arguments)


def sasrec(**arguments):
    return SasRec(3, 8, 1, 2, 8, **arguments)


MODELS = pytest.mark.parametrize("make", [tokenizer, recommender, sasrec])


@MODELS
@pytest.mark.parametrize("name", ["mixed_bfloat16", "float64"])
def test_another_global_policy_is_refused(make, name, policy):
    policy(name)
    with pytest.raises(ValueError, match=rf"float32 alone.*'{name}'.*set_dtype_policy"):
        make()
    with pytest.raises(ValueError, match=rf"float32 alone.*'{name}'"):
        make(dtype="float32")


@MODELS
def test_another_dtype_is_refused(make):
    with pytest.raises(ValueError, match=r"float32 alone.*'mixed_bfloat16'; leave dtype out"):
        make(dtype="mixed_bfloat16")


@MODELS
def test_float32_is_taken_and_survives_a_file(make, tmp_path, policy):
    model = make(dtype="float32")
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    model.save(tmp_path / "model.keras")
    assert type(keras.models.load_model(tmp_path / "model.keras")) is type(model)
    policy("mixed_bfloat16")
    with pytest.raises(ValueError, match=r"float32 alone.*'mixed_bfloat16'"):
        keras.models.load_model(tmp_path / "model.keras")


def test_a_part_of_another_precision_is_refused():
    with pytest.raises(ValueError, match=r"VectorEncoder computes in float32 alone.*'float16'"):
        SidTokenizer(*parts(dtype="float16"), WEIGHTS)


def test_nothing_is_said_of_float32():
    check_float32(keras.layers.Dense(1))
