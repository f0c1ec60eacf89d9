"""What the configuration asks of the files is settled, or refused, before anything runs."""

import pandas as pd
import pytest

from components.refusal import Refused
from pipeline.columns import recommender_problem, resolve, tokenizer_problem
from pipeline.config import Config, ConfigError, FeaturesConfig, TokenizerConfig, load_config
from sid_tfx.features import COLLABORATIVE, AdSchema

pytestmark = pytest.mark.unit

SCHEMA = AdSchema(text={"title": 6}, categorical=("advertiser",), category_depth=2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tokenizer.preset=quasid"], ["dense column", "'kind': 'tower'"]),
        (["tokenizer.preset=rq_kmeans"], ["rq_kmeans", "dense column", "joint or unisid"]),
        (["tokenizer.encoder={heads: 7}"], ["heads must divide dim"]),
        (["tokenizer.encoder={width: 7}"], ["width", "level_decay", "another preset's encoder"]),
        (["tokenizer.encoder={kind: tower}"], ["'joint'", "JointEncoder", "Leave kind out"]),
        (["tokenizer.quantizer={learning: ema, codebook: linear}"], ["moving average"]),
        (["tokenizer.loss_weights={hamr: 1}"], ["hamr", "repulsion_full"]),
        (["tokenizer.arguments={temperature: 0}"], ["temperature"]),
    ],
)
def test_a_wrong_tokenizer_is_named_with_the_reason(overrides, words):
    settings = load_config(None, overrides).tokenizer
    problem = tokenizer_problem(settings.preset, SCHEMA, settings.build_arguments())
    for word in words:
        assert word in problem


def test_a_preset_on_vectors_suits_ads_without_them_by_another_kind_of_encoder():
    overrides = ["tokenizer.preset=quasid", "tokenizer.encoder={kind: tower, layers: 1}"]
    settings = load_config(None, overrides).tokenizer
    assert tokenizer_problem(settings.preset, SCHEMA, settings.build_arguments()) == ""


def test_the_default_tokenizer_suits_any_ads():
    settings = load_config().tokenizer
    for schema in (SCHEMA, AdSchema(numeric=("price",)), AdSchema(dense={"image_embedding": 4})):
        assert tokenizer_problem(settings.preset, schema, settings.build_arguments()) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, []),
        ({"hidden_sizes": 64}, ["hidden_sizes"]),
        ({"num_heads": 7}, ["num_heads=7"]),
        ({"num_ads": 5}, ["num_ads"]),
    ],
)
def test_a_wrong_recommender_is_named_with_the_reason(arguments, words):
    problem = recommender_problem(arguments)
    assert bool(problem) == bool(words)
    assert all(word in problem for word in words)


@pytest.fixture
def tables(tmp_path):
    def written(ads: dict[str, list]) -> Config:
        pd.DataFrame(ads).to_parquet(tmp_path / "ads.parquet")
        events = {"user_id": ["u"], "ad_id": ["a0"], "timestamp": [1]}
        pd.DataFrame(events).to_parquet(tmp_path / "events.parquet")
        paths = {
            f"data.{name}.path": str(tmp_path / f"{name}.parquet") for name in ("ads", "events")
        }
        return load_config(None, [f"run.root={tmp_path}"], paths)

    return written


COLUMNS = {
    "ad_id": [f"a{row}" for row in range(10)],
    "advertiser": ["x", "y"] * 5,
    "colour": ["red", "blue"] * 5,
    "category_path": [["a"]] * 5 + [["a", "b"]] * 5,
}


def test_a_refresh_takes_the_columns_that_were_trained_on(tables):
    trained = resolve(tables(COLUMNS)).schema
    assert trained.category_depth == 2
    other = {name: values[::-1] for name, values in reversed(COLUMNS.items())}
    other["category_path"] = [["a", "b", "c"]] * 10
    config = tables({**other, "brand": ["m", "n"] * 5})
    assert resolve(config).schema != trained
    assert resolve(config, trained=trained).schema == trained
    del other["colour"]
    with pytest.raises(Refused, match="lacks colour, which the last push was trained on; it has"):
        resolve(tables(other), trained=trained)


VECTORS = {"text_embedding": [[0.0, 1.0]] * 10, "image_embedding": [[0.0, 1.0, 2.0]] * 10}


@pytest.mark.parametrize("preset", ["rq_kmeans_collaborative", "rq_kmeans_joined_balanced"])
def test_the_command_that_makes_a_missing_column_is_named(tables, preset):
    config = tables({**COLUMNS, **VECTORS})
    # Two columns of content are no joined vectors either.
    asked = config.model_copy(update={"tokenizer": TokenizerConfig(preset=preset)})
    with pytest.raises(ConfigError) as refused:
        resolve(asked)
    command = f"collaborative-vectors --ads {config.data.ads.path} --events "
    for word in (preset, repr(COLLABORATIVE), "text_embedding", command, "--set of this run"):
        assert word in str(refused.value)
    by_hand = TokenizerConfig(preset=preset, encoder={"vectors": "content"})
    resolve(config.model_copy(update={"tokenizer": by_hand}))

    made = tables({**COLUMNS, **VECTORS, COLLABORATIVE: [[1.0] * 64] * 10})
    asked = made.model_copy(update={"tokenizer": TokenizerConfig(preset=preset)})
    assert resolve(asked).schema.dense[COLLABORATIVE] == 64
    without = FeaturesConfig(dense={"text_embedding": 2})
    with pytest.raises(ConfigError, match=r"features\.dense leaves out 'collab"):
        resolve(asked.model_copy(update={"features": without}))


def test_a_refresh_without_collaborative_vectors_says_where_they_come_from(tables):
    trained = resolve(tables({**COLUMNS, COLLABORATIVE: [[1.0] * 64] * 10})).schema
    with pytest.raises(Refused, match="keep it for the ads it has, leave it empty for new ones"):
        resolve(tables(COLUMNS), trained=trained)
    some = [[1.0] * 64] * 5 + [None] * 5
    assert resolve(tables({**COLUMNS, COLLABORATIVE: some}), trained=trained).schema == trained


def test_a_column_of_another_type_is_named_with_its_file(tables):
    with pytest.raises(ConfigError, match=r"ads\.parquet: column 'price' is to hold numbers"):
        resolve(tables({**COLUMNS, "price": ["12 EUR", "9 EUR"] * 5}))


def test_storage_that_cannot_be_read_is_refused():
    paths = {"data.ads.path": "nowhere://b/ads.parquet", "data.events.path": "e.csv"}
    with pytest.raises(Refused, match=r"nowhere://b/ads\.parquet can't be listed"):
        resolve(load_config(None, [], paths))
