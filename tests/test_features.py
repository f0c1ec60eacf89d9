import numpy as np
import pytest

from sid_tfx.features import AdSchema, FeatureSizes, empty_features

pytestmark = pytest.mark.unit


def schema() -> AdSchema:
    return AdSchema(
        text={"title": 4, "description": 6},
        categorical=("advertiser",),
        category_depth=3,
        numeric=("price", "age"),
        dense={"text_embedding": 8},
        summary_tokens=5,
    )


def test_features_lists_names_dtypes_and_shapes_of_the_contract():
    assert schema().features() == {
        "title_tokens": ("int64", (4,)),
        "description_tokens": ("int64", (6,)),
        "advertiser": ("int64", ()),
        "category": ("int64", (3,)),
        "numeric": ("float32", (2,)),
        "numeric_present": ("float32", (2,)),
        "text_embedding": ("float32", (8,)),
        "summary_tokens": ("int64", (5,)),
    }


def test_the_summary_is_a_target_and_not_an_input():
    assert "summary_tokens" not in schema().input_features()


def test_round_trips_through_json():
    assert AdSchema.from_json(schema().to_json()) == schema()
    sizes = FeatureSizes(text=100, categorical={"advertiser": 9}, category=7)
    assert FeatureSizes.from_json(sizes.to_json()) == sizes
    assert isinstance(AdSchema.from_json(schema().to_json()).numeric, tuple)


def test_column_order_of_mappings_does_not_matter():
    a = AdSchema(text={"title": 4, "description": 6})
    b = AdSchema(text={"description": 6, "title": 4})
    assert list(a.features()) == list(b.features())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no input"),
        ({"summary_tokens": 4}, "no input"),
        ({"text": {"title": 0}}, r"text\['title'\] must be .* at least 1, got 0"),
        ({"dense": {"image": -1}}, r"dense\['image'\]"),
        ({"category_depth": -1}, "category_depth"),
        ({"categorical": "advertiser"}, "sequence of column names"),
        ({"categorical": ("category",)}, "reserved"),
        ({"text": {"summary": 5}}, "reserved"),
        ({"categorical": ("a",), "dense": {"a": 2}}, "two columns"),
        ({"numeric": ("price", "price")}, "twice"),
    ],
)
def test_refuses_a_wrong_schema_and_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdSchema(**arguments)


def test_from_dict_names_an_unknown_field():
    with pytest.raises(ValueError, match="titles"):
        AdSchema.from_dict({"titles": {}})


def test_sizes_must_cover_the_schema():
    with pytest.raises(ValueError, match=r"advertiser.*text.*category"):
        FeatureSizes().check(schema())
    with pytest.raises(ValueError, match="at least 2"):
        FeatureSizes(text=1)
    FeatureSizes(text=2, categorical={"advertiser": 2}, category=2).check(schema())


def test_empty_features_have_the_contract_shapes():
    features = empty_features(schema(), 3)
    assert features["category"].shape == (3, 3)
    assert features["title_tokens"].dtype == np.int64
    assert features["text_embedding"].dtype == np.float32
    assert not any(np.any(v) for v in features.values())
