"""A tokenizer that can't be made for these ads is refused before anything runs."""

import pytest

from pipeline.columns import tokenizer_problem
from pipeline.config import load_config
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
