import json

import hypothesis
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import strategies

from sid_tfx.datasets import fields, text
from sid_tfx.datasets.ads import AdTable, load_ads, load_events
from sid_tfx.datasets.market import make_market, write_sample
from sid_tfx.datasets.preprocessor import AdPreprocessor
from sid_tfx.datasets.vocabulary import Vocabulary
from sid_tfx.features import AdSchema

pytestmark = pytest.mark.unit


def words_of(string: str | bytes) -> list[str]:
    return [word.decode() for word in text.split_words(tf.constant([string])).to_list()[0]]


@pytest.mark.parametrize(
    ("string", "words"),
    [
        ("Women's Shampoo, 13.5 Fl Oz!", ["womens", "shampoo", "13.5", "fl", "oz"]),
        ("The Women\u2019s best.Buy now...", ["the", "womens", "best", "buy", "now"]),
        ("3/8 4Fl $1,299.00 .75 5.", ["3", "8", "4fl", "1299.00", "75", "5"]),
        ("\u00c9CLAIR na\u00efve", ["\u00e9clair", "na\u00efve"]),
        ("cafe\u0301", ["cafe\u0301"]),
        ("\u4fdd\u6e7f\u30af 50ml", ["\u4fdd", "\u6e7f", "\u30af", "50ml"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        (b"\xff\xfebad bytes", ["bad", "bytes"]),
        ("two\nlines\x1fand\x00nul", ["two", "lines", "and", "nul"]),
        ("!?- \t", []),
        ("", []),
    ],
)
def test_split_words(string, words):
    assert words_of(string) == words


@hypothesis.given(strategies.binary(max_size=60))
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_bytes_give_clean_words_and_splitting_again_changes_nothing(string):
    words = words_of(string)
    assert all(words)
    assert not any(character.isspace() for word in words for character in word)
    assert words_of(" ".join(words)) == words


def test_huge_text_is_cut():
    assert len(words_of("word " * 200_000)) <= text.MAX_BYTES // 5 + 1


def test_pad_words_cuts_and_pads():
    words = tf.ragged.constant([["a", "b", "c"], ["d"], []])
    expected = [[b"a", b"b"], [b"d", b""], [b"", b""]]
    assert text.pad_words(words, 2).numpy().tolist() == expected


def test_summary_template_says_what_is_known():
    path = tf.ragged.constant([["Hair", "Care", "Dye"], ["Hair"], [], []])
    advertiser = tf.constant(["Aveda", "", "Aveda", ""])
    assert text.summarize(path, advertiser).numpy().tolist() == [
        b"Dye in Hair Care by Aveda",
        b"Hair",
        b"by Aveda",
        b"",
    ]


def test_a_summary_column_wins_over_the_template():
    schema = AdSchema(category_depth=1, summary_tokens=4)
    strings = {"summary": tf.constant(["Soft red dye", "  "])}
    made = fields.string_fields(schema, strings, tf.ragged.constant([["Hair"], ["Hair"]]))
    assert made.words is not None
    assert made.words.numpy().tolist() == [[b"soft", b"red", b"dye", b""], [b"hair", b"", b"", b""]]


def test_path_prefixes_are_equal_on_the_same_branch_only():
    paths = tf.ragged.constant([["A", "B", "C"], ["A", "B"], ["X", "B"], ["A B"], []])
    prefixes = fields.path_prefixes(paths, 3).numpy()
    assert (prefixes[0, :2] == prefixes[1, :2]).all()
    assert prefixes[1, 2] == b""
    # The middle category has the same name on another branch, and is another one.
    assert prefixes[2, 1] != prefixes[0, 1]
    assert len({prefixes[0, 1], prefixes[3, 0]}) == 2
    assert (prefixes[4] == b"").all()


def test_blank_path_elements_and_control_characters_do_not_make_branches():
    schema = AdSchema(category_depth=2)
    paths = tf.ragged.constant([["A", " ", "B"], ["A", "B\n"], ["A\x1fB"]])
    category = fields.string_fields(schema, {}, paths).category
    assert category is not None
    prefixes = category.numpy()
    assert (prefixes[0] == prefixes[1]).all()
    assert prefixes[2].tolist() == [b"A B", b""]


def test_a_path_that_is_no_tree_is_cut():
    schema = AdSchema(category_depth=2, summary_tokens=2)
    path = [f"level{level}" for level in range(40)]
    made = fields.string_fields(schema, {}, tf.ragged.constant([path, path[:1]]))
    assert made.words is not None
    assert made.words.numpy().tolist() == [[b"level31", b"in"], [b"level0", b""]]


def test_vocabulary_order_limits_and_unknowns():
    vocabulary = Vocabulary(max_size=3, min_count=2)
    vocabulary.count(np.array([[b"b", b"a", b""], [b"b", b"a", b"c"]], object))
    vocabulary.count(np.array([b"z", b"z", b"z", b"d", b"d"], object))
    vocabulary.freeze()
    # Ties fall to the greater string, as in TF Transform.
    assert vocabulary.strings == [b"z", b"d", b"b"]
    assert vocabulary.size == 5
    ids = vocabulary.lookup(np.array([[b"z", b"b"], [b"a", b""]], object))
    assert ids.tolist() == [[2, 4], [1, 0]]
    assert ids.dtype == np.int64


def test_vocabulary_must_be_frozen_before_use():
    with pytest.raises(ValueError, match="freeze"):
        Vocabulary(3).lookup(np.array([b"a"], object))


@pytest.fixture(scope="module")
def ads() -> AdTable:
    return load_ads(make_market(ads=200, users=1).ads)


def test_preprocessor_keeps_the_contract(ads):
    preprocessor = AdPreprocessor(ads.schema).adapt(ads)
    features = preprocessor.transform(ads)
    declared = ads.schema.features()
    assert list(features) == list(declared)
    for name, (dtype, shape) in declared.items():
        assert features[name].dtype == dtype
        assert features[name].shape == (len(ads), *shape)
    preprocessor.sizes.check(ads.schema)
    assert features["title_tokens"].max() < preprocessor.sizes.text
    assert features["category"].max() == preprocessor.sizes.category - 1
    present = features["numeric_present"][:, 0] == 1
    np.testing.assert_array_equal(present, ads.frame["price"].notna())
    scores = features["numeric"][present, 0]
    np.testing.assert_allclose([scores.mean(), scores.std()], [0, 1], atol=1e-5)
    assert (features["numeric"][~present] == 0).all()


def test_unseen_ads_get_known_unknown_and_missing_ids(ads):
    preprocessor = AdPreprocessor(ads.schema).adapt(ads)
    known = ads.frame.dropna(subset=["advertiser"]).iloc[0]
    new = pd.DataFrame(
        {
            "ad_id": ["n1", "n2"],
            "title": ["Qwxyz " + known["title"], None],
            "description": [None, None],
            "advertiser": [known["advertiser"], "Nobody Ltd"],
            "category_path": [known["category_path"][:2], ["Never seen"]],
            "price": [1e30, np.nan],
        }
    )
    features = preprocessor.transform(load_ads(new, ads.schema))
    seen = preprocessor.transform(ads.select(ads.ad_ids == known["ad_id"]))
    assert features["title_tokens"][0, 0] == 1
    np.testing.assert_array_equal(features["title_tokens"][0, 1:], seen["title_tokens"][0, :-1])
    assert (features["title_tokens"][1] == 0).all()
    assert features["advertiser"].tolist() == [seen["advertiser"][0], 1]
    np.testing.assert_array_equal(features["category"][0, :2], seen["category"][0, :2])
    assert features["category"][0, 2:].tolist() == [0] * (ads.schema.category_depth - 2)
    assert features["category"][1, 0] == 1
    assert features["numeric"].ravel().tolist() == [fields.MAX_Z_SCORE, 0]


def test_features_do_not_depend_on_row_order_or_neighbours(ads):
    whole = AdPreprocessor(ads.schema).adapt(ads)
    shuffled = load_ads(ads.frame.sample(frac=1, random_state=1), ads.schema)
    expected = whole.transform(ads)
    for name, values in AdPreprocessor(ads.schema).adapt(shuffled).transform(shuffled).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6)
    one = whole.transform(ads.select(np.array([7])))
    for name, values in one.items():
        np.testing.assert_array_equal(values[0], expected[name][7])


@pytest.mark.parametrize(
    "schema",
    [
        AdSchema(numeric=("price",)),
        AdSchema(dense={"x_embedding": 3}),
        AdSchema(text={"title": 4}),
        AdSchema(categorical=("advertiser",), summary_tokens=3),
        AdSchema(category_depth=1),
    ],
    ids=["numeric", "dense", "text", "categorical", "category"],
)
def test_one_kind_of_column_is_enough(schema):
    frame = pd.DataFrame(
        {
            "ad_id": ["a", "b", "c"],
            "title": ["x", "x", None],
            "advertiser": ["p", None, "p"],
            "category_path": [["r"], [], ["r", "s"]],
            "price": [1.0, np.nan, 3.0],
            "x_embedding": [[1.0, 2.0, 3.0], None, [np.nan, 1.0, 1.0]],
        }
    )
    table = load_ads(frame, schema)
    features = AdPreprocessor(schema).adapt(table).transform(table)
    assert set(features) == set(schema.features())
    assert all(np.isfinite(values).all() for values in features.values())


def test_a_numeric_column_without_any_number_is_all_absent():
    frame = pd.DataFrame({"ad_id": ["a", "b"], "title": ["x y", "z"], "price": [np.nan, np.nan]})
    table = load_ads(frame, AdSchema(text={"title": 2}, numeric=("price",)))
    features = AdPreprocessor(table.schema).adapt(table).transform(table)
    assert not features["numeric"].any()
    assert not features["numeric_present"].any()


def test_limits_are_validated():
    with pytest.raises(ValueError, match=r"VocabularyLimits.text must be .* got 0"):
        fields.VocabularyLimits(text=0)


def test_schema_is_inferred_from_the_columns():
    rows = 8
    frame = pd.DataFrame(
        {
            "ad_id": [f"a{i}" for i in range(rows)],
            "title": ["Short"] * rows,
            "slogan": [f"five words make it text {i}" for i in range(rows)],
            "link": [f"http://example.org/{i}" for i in range(rows)],
            "advertiser": [f"b{i}" for i in range(rows)],
            "country": ["us", "de"] * (rows // 2),
            "category_path": ["A > B > C > D > E"] * rows,
            "price": np.arange(rows, dtype=float),
            "nothing": [None] * rows,
            "image_embedding": [[0.0, 1.0]] * rows,
            "summary": ["One"] * rows,
        }
    )
    assert load_ads(frame).schema == AdSchema(
        text={"slogan": 32, "title": 24},
        categorical=("advertiser", "country"),
        category_depth=4,
        numeric=("price",),
        dense={"image_embedding": 2},
        summary_tokens=16,
    )


def test_all_file_formats_give_the_same_ads_and_events(tmp_path):
    ads_path, events_path = write_sample(tmp_path, ads=40, users=10)
    expected, log = load_ads(ads_path), load_events(events_path)
    raw = pd.read_parquet(ads_path)
    records = raw.assign(category_path=raw["category_path"].map(list)).to_dict("records")
    lines = [json.dumps({k: v for k, v in r.items() if isinstance(v, list) or pd.notna(v)})
             for r in records]  # fmt: skip
    (tmp_path / "ads.jsonl").write_text("\n".join(lines))
    raw.assign(category_path=raw["category_path"].map(" > ".join)).to_csv(
        tmp_path / "ads.csv", index=False
    )
    pd.read_parquet(events_path).to_csv(tmp_path / "events.csv", index=False)
    preprocessor = AdPreprocessor(expected.schema).adapt(expected)
    for name in ("ads.jsonl", "ads.csv"):
        other = load_ads(tmp_path / name)
        assert other.schema == expected.schema
        for feature, values in preprocessor.transform(other).items():
            np.testing.assert_array_equal(values, preprocessor.transform(expected)[feature])
    pd.testing.assert_frame_equal(load_events(tmp_path / "events.csv"), log)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"title": ["x"]}, r"ads: no column \['ad_id'\]; the table has \['title'\]"),
        ({"ad_id": ["a", "a"], "title": ["x", "y"]}, "ad_id 'a' occurs twice"),
        ({"ad_id": ["a", " "], "title": ["x", "y"]}, "ad_id must not be empty; row 1 has ' '"),
        ({"ad_id": [], "title": []}, "ads: no rows"),
        ({"ad_id": ["a"], "link": ["x"]}, "no input"),
        (
            {"ad_id": ["a", "b"], "t_embedding": [[1.0, 2.0], [1.0]]},
            r"t_embedding must hold vectors of 2 numbers; row 1 has \[1.0\]",
        ),
    ],
)
def test_bad_ads_are_refused_with_the_reason(frame, message):
    with pytest.raises(ValueError, match=message):
        load_ads(pd.DataFrame(frame))


def test_a_schema_column_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"no column \['price'\], which the schema names"):
        load_ads(pd.DataFrame({"ad_id": ["a"]}), AdSchema(numeric=("price",)))


def test_an_unknown_file_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in one of"):
        load_ads(tmp_path / "ads.xlsx")


def test_a_preprocessor_that_knows_no_ads_says_so():
    ads = load_ads(pd.DataFrame({"ad_id": ["a"], "title": ["x"]}))
    with pytest.raises(RuntimeError, match=r"call adapt\(ads\) first"):
        AdPreprocessor(ads.schema).transform(ads)
    with pytest.raises(RuntimeError, match="adapt"):
        _ = AdPreprocessor(ads.schema).sizes


EVENT = {"user_id": ["u"], "ad_id": ["a"], "timestamp": [5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": [1_735_689_600_000]}, "timestamp must be Unix seconds between 1970 and"),
        ({"timestamp": [-1]}, "row 0 has -1"),
        ({"timestamp": ["soon"]}, "row 0 has 'soon'"),
        ({"weight": [-0.5]}, "weight must be a finite number of at least 0; row 0 has -0.5"),
        ({"weight": [np.inf]}, "weight must be"),
        ({"user_id": [None]}, "events: user_id must not be empty"),
    ],
)
def test_bad_events_are_refused_with_the_reason(change, message):
    with pytest.raises(ValueError, match=message):
        load_events(pd.DataFrame(EVENT | change))


def test_a_missing_weight_is_one_that_nobody_knows():
    log = pd.DataFrame({key: value * 2 for key, value in EVENT.items()} | {"weight": [3.0, None]})
    assert load_events(log)["weight"].tolist() == [3.0, 0.0]


def test_events_of_unknown_ads_are_dropped_and_counted():
    ads = load_ads(pd.DataFrame({"ad_id": ["a"], "title": ["x"]}))
    log = pd.DataFrame({"user_id": ["u"] * 3, "ad_id": ["a", "b", "a"], "timestamp": [3, 2, 1]})
    with pytest.warns(UserWarning, match="1 of 3 events name ads that are not in the table"):
        events = load_events(log, ads)
    assert events["timestamp"].tolist() == [1, 3]
