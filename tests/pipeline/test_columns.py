"""What the configuration asks of the files is settled, or refused, before anything runs."""

import pandas as pd
import pytest

from components.refusal import Refused
from pipeline.columns import recommender_problem, resolve, tokenizer_problem
from pipeline.config import Config, ConfigError, load_config
from sid_tfx.features import AdSchema

pytestmark = pytest.mark.unit

SCHEMA = AdSchema(text={"title": 6}, categorical=("advertiser",), category_depth=2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tokenizer.preset=rq_kmeans"], ["rq_kmeans", "dense column", "joint or unisid"]),
        (["tokenizer.encoder={heads: 7}"], ["heads must divide dim"]),
        (["tokenizer.encoder={width: 7}"], ["width", "level_decay", "another preset's encoder"]),
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


def test_a_column_of_another_type_is_named_with_its_file(tables):
    with pytest.raises(ConfigError, match=r"ads\.parquet: column 'price' is to hold numbers"):
        resolve(tables({**COLUMNS, "price": ["12 EUR", "9 EUR"] * 5}))


def test_storage_that_cannot_be_read_is_refused():
    paths = {"data.ads.path": "nowhere://b/ads.parquet", "data.events.path": "e.csv"}
    with pytest.raises(Refused, match=r"nowhere://b/ads\.parquet can't be listed"):
        resolve(load_config(None, [], paths))
