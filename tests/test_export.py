"""The servable: through every loader in a fresh process, against what the parts say in this one."""

import dataclasses
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sid_tfx import export
from sid_tfx.catalog import SidCatalog
from sid_tfx.context import EventContext
from sid_tfx.export import Servable, WireLimits, custom_ops
from sid_tfx.export.history import gather_places, newest_places
from sid_tfx.export.id_table import IdTable
from sid_tfx.export.inventory import read_graphs
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import PADDING_SCORE, BruteForce, ScaNN
from sid_tfx.tokenizer import SidTokenizer
from tests import fresh_process
from tests.recommender_fixtures import random_successors

pytestmark = pytest.mark.unit

ADS, LEVELS, CODES, DIM = 60, 3, 8, 16
LIMITS = WireLimits(max_history=6, max_k=5, max_exclude=4, beam_size=60)
WORDS = [f"word{word}" for word in range(18)]
SCHEMA = AdSchema(text={"title": 4}, categorical=("advertiser",))


class RawAds(tf.Module):
    """Raw examples to features: a vocabulary in an asset file, as TF Transform's graph has it."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        file = folder / "words.txt"
        file.write_text("\n".join(WORDS))
        self.asset = tf.saved_model.Asset(str(file))
        self.table = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                self.asset.asset_path,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            num_oov_buckets=1,
        )

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {
            "title": tf.io.FixedLenFeature([], tf.string, ""),
            "advertiser": tf.io.FixedLenFeature([], tf.string, ""),
        }
        parsed = tf.io.parse_example(examples, spec)
        words = tf.strings.split(parsed["title"]).to_tensor("", shape=[None, 4])
        tokens = tf.where(words == "", tf.zeros([], tf.int64), self.table.lookup(words) + 1)
        return {"title_tokens": tokens, "advertiser": self.table.lookup(parsed["advertiser"]) + 1}


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a servable is made of, and where it was saved."""

    recommender: SidRecommender
    tokenizer: SidTokenizer
    preprocess: RawAds
    catalog: SidCatalog
    popularity: np.ndarray
    folder: pathlib.Path

    def servable(self, **changes) -> Servable:
        fields = [field.name for field in dataclasses.fields(self) if field.name != "folder"]
        arguments = {name: getattr(self, name) for name in fields}
        return Servable(**{**arguments, "limits": LIMITS, **changes})


def _catalog(ads: int = ADS, seed: int = 0) -> SidCatalog:
    rng = np.random.default_rng(seed)
    return SidCatalog.build(
        [f"ad-{ad:04d}-ü" for ad in range(ads)],
        rng.integers(0, CODES, (ads, LEVELS)),
        rng.normal(size=(ads, DIM)),
        codebook_size=CODES,
    )


def _recommender(catalog: SidCatalog, **arguments) -> SidRecommender:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "mlp_size": 32, "head_size": 16}
    successors = random_successors(len(catalog))
    return SidRecommender.for_catalog(catalog, successors, **sizes, max_history=8, **arguments)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Parts:
    folder = tmp_path_factory.mktemp("export")
    catalog = _catalog()
    sizes = FeatureSizes(text=30, categorical={"advertiser": 30})
    tokenizer = SidTokenizer.from_preset(
        "joint",
        SCHEMA,
        sizes,
        levels=LEVELS,
        codebook_size=CODES,
        encoder={"embedding_dim": DIM, "dim": 16},
    )
    popularity = np.random.default_rng(1).permutation(ADS) * 3
    return Parts(_recommender(catalog), tokenizer, RawAds(folder), catalog, popularity, folder)


@pytest.fixture(scope="module")
def portable(parts) -> tuple[Servable, str]:
    servable, path = parts.servable(), str(parts.folder / "portable")
    export.save(servable, path)
    return servable, path


@pytest.fixture(scope="module")
def scann(parts) -> tuple[Servable, str]:
    index = ScaNN(k=5, max_k=6, similarity="cosine", num_leaves=4, num_leaves_to_search=4)
    index.index(parts.catalog.embeddings)
    servable, path = parts.servable(index=index), str(parts.folder / "scann")
    export.save(servable, path)
    return servable, path


def _ad(row: int) -> str:
    return f"ad-{row:04d}-ü"


def _bytes(rows: list[list[str]], width: int) -> np.ndarray:
    padded = [[*row, *[""] * (width - len(row))] for row in rows]
    return np.array([[ad.encode() for ad in row] for row in padded], dtype=object)


def _example(**features) -> bytes:
    def feature(values):
        values = [values] if isinstance(values, str) else values
        encoded = [value.encode() for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))

    named = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


HISTORIES = [
    [_ad(3), _ad(17), _ad(40)],
    [],
    ["nobody", _ad(3), "", _ad(17), _ad(40)],
    ["nobody"],
    [_ad(59), _ad(0), _ad(1), _ad(2), _ad(3), _ad(4)],
]


def _requests() -> list[tuple[str, dict[str, np.ndarray]]]:
    """One request of every signature, with the awkward rows in it."""
    history = _bytes(HISTORIES, LIMITS.max_history)
    batch = len(HISTORIES)
    ads = [_example(title=f"{WORDS[i]} unheard {WORDS[-i]}", advertiser=WORDS[i]) for i in range(4)]
    sequences = [_example(history=row, target=_ad(i)) for i, row in enumerate(HISTORIES)]
    embedding = np.random.default_rng(2).normal(size=(3, DIM)).astype(np.float32)
    embedding[2, 0] = np.nan
    modes = [b"generative", b"hybrid", b"hybrid", b"neither", b"hybrid"]
    exclude = _bytes([[_ad(i), "nobody", _ad(i)] for i in range(batch)], LIMITS.max_exclude)
    filtered = {
        "history": history,
        "exclude_ad_ids": exclude,
        "filter_seen": np.array([True, True, False, False, True]),
        "mode": np.array(modes, dtype=object),
    }
    return [
        ("serving_default", {"history": history}),
        ("recommend", {"history": history}),
        ("recommend_filtered", filtered),
        ("recommend_filtered", {**filtered, "mode": np.array([b"generative"] * batch)}),
        ("encode_ads", {"examples": np.array([*ads, _example()], dtype=object)}),
        ("similar_ads", {"ad_ids": np.array([b"nobody", _ad(5).encode(), b""], dtype=object)}),
        ("similar_to_embedding", {"embedding": embedding}),
        ("evaluate", {"examples": np.array(sequences, dtype=object)}),
    ]


def _here(servable: Servable, signature: str, inputs: dict) -> dict[str, np.ndarray]:
    method = getattr(servable, signature.replace("serving_default", "recommend"))
    answer = method(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in answer.items()}


def _tensors(inputs: dict) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in inputs.items()}


def _same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, right[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("flavour", ["portable", pytest.param("scann", marks=pytest.mark.slow)])
def test_every_signature_answers_in_a_fresh_process_as_in_this_one(flavour, request):
    servable, path = request.getfixturevalue(flavour)
    requests = _requests()
    expected = [_here(servable, signature, inputs) for signature, inputs in requests]
    for loader in ("session", "tf2"):
        answers = fresh_process.run(path, requests, loader, scann=flavour == "scann")
        for here, there in zip(expected, answers, strict=True):
            _same(here, there)


CONTEXT = EventContext(time=True, events=("view", "buy"), weight=True)


@pytest.fixture(scope="module")
def in_context(parts) -> tuple[Servable, str]:
    recommender = _recommender(parts.catalog, context=CONTEXT)
    assert recommender.context_embedding is not None
    # Untrained embeddings are small: every value has to show in the answer.
    for table in recommender.context_embedding.tables:
        table.embeddings.assign(20 * table.embeddings)
    servable = parts.servable(recommender=recommender)
    path = str(parts.folder / "in_context")
    export.save(servable, path)
    return servable, path


def _context_inputs(histories, timestamps, events, weights) -> dict[str, np.ndarray]:
    batch, width = len(histories), LIMITS.max_history

    def block(rows, dtype) -> np.ndarray:
        return np.array([[*row, *[0] * (width - len(row))] for row in rows], dtype)

    return {
        "history": _bytes(histories, width),
        "history_timestamps": block(timestamps, np.int64),
        "history_events": _bytes(events, width),
        "history_weights": block(weights, np.float32),
        "exclude_ad_ids": _bytes([[_ad(9)]] * batch, LIMITS.max_exclude),
        "filter_seen": np.array([True, False] * batch)[:batch],
        "mode": np.array([b"generative", b"hybrid"] * batch, dtype=object)[:batch],
    }


def test_a_context_is_read_where_it_is_sent_and_nothing_is_asked_of_the_others(
    in_context, portable, parts
):
    servable, path = in_context
    loaded = tf.saved_model.load(path)
    assert "recommend_in_context" not in tf.saved_model.load(portable[1]).signatures
    histories = [[_ad(3), "nobody", _ad(17)], [_ad(40), _ad(8)], []]
    known = ([[100, 0, 160], [5, 5], []], [["view", "", "buy"], ["", "rare"], []], [[], [0, 2], []])
    inputs = _context_inputs(histories, *known)
    unknown = _context_inputs(histories, [[]] * 3, [[]] * 3, [[]] * 3)
    filtered = {name: value for name, value in unknown.items() if "history_" not in name}
    requests = [
        ("recommend_in_context", inputs),
        ("recommend_in_context", unknown),
        ("recommend_filtered", filtered),
    ]
    with_context, without, plain = (
        {k: v.numpy() for k, v in loaded.signatures[name](**_tensors(given)).items()}
        for name, given in requests
    )
    _same(without, plain)
    assert np.abs(with_context["scores"][:2, 0] - plain["scores"][:2, 0]).min() > 1e-4
    np.testing.assert_array_equal(with_context["ad_ids"][2], plain["ad_ids"][2])
    assert _ad(3) not in _ads(with_context)[0]

    # The unknown ad takes its own values along; a gap is between the ads that are read.
    rows = np.zeros((2, 6, 4), np.int32)
    rows[0, :2] = [[4, 0, 1, 0], [18, 7, 2, 0]]
    rows[1, :2] = [[41, 0, 0, 0], [9, 1, 0, 4]]
    excluded = tf.constant([[9, 3, 17], [9, -1, -1]])
    for row, mode in enumerate(("generative", "hybrid")):
        found = servable.decoder.recommend(
            tf.constant(rows[row : row + 1]), LIMITS.max_k, mode, excluded[row : row + 1]
        )
        assert _ads(with_context)[row] == parts.catalog.ad_ids[found.rows.numpy()[0]].tolist()
        np.testing.assert_allclose(with_context["scores"][row], found.scores[0], rtol=1e-4)
    answers = fresh_process.run(path, requests)
    _same(answers[0], with_context)


def _with_target(example: bytes, ad: str) -> bytes:
    parsed = tf.train.Example.FromString(example)
    parsed.features.feature["target"].bytes_list.value[:] = [ad.encode()]
    return parsed.SerializeToString()


def test_evaluate_reads_the_context_that_an_example_has(in_context):
    path = in_context[1]
    ads = [_ad(row) for row in (3, 17, 40, 8, 21, 5, 6, 7, 2)]
    example = tf.train.Example.FromString(_example(history=ads, target=_ad(11)))
    feature = example.features.feature
    feature["timestamps"].int64_list.value.extend(10 ** np.arange(len(ads)))
    feature["events"].bytes_list.value.extend([b"view", b"", b"buy"] * 3)
    some = tf.train.Example.FromString(example.SerializeToString())
    del some.features.feature["events"]
    examples = [example.SerializeToString(), some.SerializeToString()]
    examples.append(_example(history=ads, target=_ad(11)))
    known = (10 ** np.arange(3, 9), ["view", "", "buy"] * 2)
    contexts = [known, (known[0], []), ([], [])]
    inputs = _context_inputs(
        [ads[-LIMITS.max_history :]] * 3, *zip(*contexts, strict=True), [[]] * 3
    )
    inputs |= {"exclude_ad_ids": _bytes([[]] * 3, LIMITS.max_exclude)}
    inputs |= {"filter_seen": np.zeros(3, bool), "mode": np.array([b"generative"] * 3)}
    loaded = tf.saved_model.load(path).signatures
    lists = _ads({"ad_ids": loaded["recommend_in_context"](**_tensors(inputs))["ad_ids"].numpy()})
    assert lists[0] != lists[1] != lists[2]
    for k, ad in enumerate(lists[0]):
        asked = [_with_target(example, ad) for example in examples]
        rank = loaded["evaluate"](examples=tf.constant(asked))["rank"].numpy()
        want = [1 + found.index(ad) if ad in found else 0 for found in lists]
        assert rank.tolist() == want
        assert rank[0] == k + 1


def test_only_the_scann_servable_has_custom_ops(portable, scann):
    assert custom_ops(portable[1]) == []
    found = custom_ops(scann[1])
    assert found
    assert all(op.startswith("Scann>") for op in found)


@pytest.fixture(scope="module")
def ask(portable):
    """Asks a signature of the saved model."""
    loaded = tf.saved_model.load(portable[1])

    def answer(signature: str, **inputs) -> dict[str, np.ndarray]:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {k: v.numpy() for k, v in loaded.signatures[signature](**tensors).items()}

    return answer


def _filtered(ask, histories, exclude, filter_seen, modes) -> dict[str, np.ndarray]:
    return ask(
        "recommend_filtered",
        history=_bytes(histories, LIMITS.max_history),
        exclude_ad_ids=_bytes(exclude, LIMITS.max_exclude),
        filter_seen=np.array(filter_seen),
        mode=np.array([mode.encode() for mode in modes], dtype=object),
    )


def _ads(answer: dict[str, np.ndarray]) -> list[list[str]]:
    return [[ad.decode() for ad in row if ad] for row in answer["ad_ids"]]


def _check_wire(answer: dict[str, np.ndarray], catalog: SidCatalog) -> None:
    """What holds of every answer with codes."""
    assert answer["ad_ids"].shape[1] == LIMITS.max_k
    assert answer["sids"].shape[1:] == (LIMITS.max_k, LEVELS)
    for ads, scores, sids, count in zip(
        _ads(answer), answer["scores"], answer["sids"], answer["count"], strict=True
    ):
        assert len(ads) == count
        assert len(set(ads)) == count
        rows = catalog.rows(ads)
        assert (rows >= 0).all()
        np.testing.assert_array_equal(sids[:count], catalog.codes[rows])
        assert (sids[count:] == -1).all()
        assert (np.diff(scores) <= 0).all()
        assert (scores[count:] == PADDING_SCORE).all()
        assert (scores[:count] > PADDING_SCORE).all()


def test_recommend_is_what_the_decoder_says(ask, portable, parts):
    answer = ask("recommend", history=_bytes(HISTORIES, LIMITS.max_history))
    rows = [[parts.catalog.rows([ad])[0] + 1 for ad in history if ad] for history in HISTORIES]
    padded = np.array([[*row, *[0] * (LIMITS.max_history - len(row))] for row in rows])
    found = portable[0].decoder.recommend(tf.constant(padded), LIMITS.max_k)
    known = [0, 2, 4]
    expected = parts.catalog.ad_ids[found.rows.numpy()[known]]
    np.testing.assert_array_equal(np.array(_ads(answer), dtype=object)[known], expected)
    np.testing.assert_allclose(answer["scores"][known], found.scores.numpy()[known], rtol=1e-4)
    _check_wire(answer, parts.catalog)


def test_unknown_ads_in_a_history_are_skipped(ask):
    clean, dirty = [_ad(3), _ad(17)], ["x", _ad(3), "", "y", _ad(17), ""]
    answer = ask("recommend", history=_bytes([clean, dirty], LIMITS.max_history))
    assert _ads(answer)[0] == _ads(answer)[1]
    np.testing.assert_allclose(answer["scores"][0], answer["scores"][1], rtol=1e-4)


def test_a_history_without_known_ads_gets_the_popular_ones(ask, parts):
    answer = ask("recommend", history=_bytes([[], [_ad(1)], ["nobody"]], LIMITS.max_history))
    ranked = parts.catalog.ad_ids[np.argsort(-parts.popularity, kind="stable")]
    assert _ads(answer)[0] == _ads(answer)[2] == list(ranked[: LIMITS.max_k])
    assert _ads(answer)[1] != _ads(answer)[0]
    share = (parts.popularity.max() + 1) / (parts.popularity.sum() + ADS)
    np.testing.assert_allclose(answer["scores"][0, 0], np.log(share), rtol=1e-5)
    _check_wire(answer, parts.catalog)
    excluded = list(ranked[: LIMITS.max_exclude])
    filtered = _filtered(ask, [[]], [excluded], [True], ["generative"])
    assert _ads(filtered)[0] == list(ranked[LIMITS.max_exclude :][: LIMITS.max_k])


_ids = st.one_of(st.integers(0, ADS - 1).map(_ad), st.sampled_from(["", "nobody"]))


@given(
    rows=st.lists(
        st.tuples(
            st.lists(_ids, max_size=LIMITS.max_history),
            st.lists(_ids, max_size=LIMITS.max_exclude),
            st.booleans(),
            st.sampled_from(["generative", "hybrid", ""]),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_answer_has_an_excluded_ad_and_none_depends_on_its_batch(ask, parts, rows):
    answer = _filtered(ask, *zip(*rows, strict=True))
    _check_wire(answer, parts.catalog)
    # 60 ads less at most 6 seen and 4 excluded: K must come back.
    assert (answer["count"] == LIMITS.max_k).all()
    for number, (history, excluded, filter_seen, mode) in enumerate(rows):
        found = set(_ads(answer)[number])
        assert not found & set(excluded)
        if filter_seen:
            assert not found & set(history)
        alone = _filtered(ask, [history], [excluded], [filter_seen], [mode])
        np.testing.assert_allclose(answer["scores"][number], alone["scores"][0], rtol=1e-3)


def test_the_mode_counts_row_by_row(ask):
    history = [[_ad(3), _ad(17)]]
    mixed = _filtered(ask, history * 3, [[]] * 3, [False] * 3, ["generative", "hybrid", "neither"])
    for row, mode in enumerate(["generative", "hybrid", "generative"]):
        alone = _filtered(ask, history, [[]], [False], [mode])
        assert _ads(mixed)[row] == _ads(alone)[0]
        np.testing.assert_allclose(mixed["scores"][row], alone["scores"][0], rtol=1e-4)
    assert not np.allclose(mixed["scores"][0], mixed["scores"][1])
    plain = ask("recommend", history=_bytes(history, LIMITS.max_history))
    assert _ads(plain)[0] == _ads(mixed)[0]


def test_evaluate_ranks_the_target_in_what_recommend_returns(ask, parts):
    long = [_ad(row) for row in (50, 51, 52, 53, 54, 3, 17, 40, 41, 42)]
    latest = ask("recommend", history=_bytes([long[-LIMITS.max_history :]], LIMITS.max_history))
    ranked = _ads(latest)[0]
    absent = next(_ad(row) for row in range(ADS) if _ad(row) not in ranked)
    targets = [*ranked, absent, "nobody"]
    answer = ask(
        "evaluate",
        examples=np.array([_example(history=long, target=ad) for ad in targets], dtype=object),
    )
    np.testing.assert_array_equal(answer["rank"], [1, 2, 3, 4, 5, 0, 0])
    np.testing.assert_array_equal(answer["history_length"], [len(long)] * len(targets))
    rows = parts.catalog.rows(targets)
    expected = np.where(rows >= 0, parts.popularity[rows], 0)
    np.testing.assert_array_equal(answer["target_popularity"], expected)


def test_evaluate_takes_a_batch_without_any_history(ask, parts):
    best = parts.catalog.ad_ids[np.argmax(parts.popularity)]
    answer = ask("evaluate", examples=np.array([_example(target=best)] * 2, dtype=object))
    np.testing.assert_array_equal(answer["rank"], [1, 1])
    np.testing.assert_array_equal(answer["history_length"], [0, 0])


def test_similar_ads_match_cosine_similarity_and_leave_the_ad_out(ask, parts):
    rows = [0, 5, 59]
    answer = ask("similar_ads", ad_ids=np.array([*map(_ad, rows), "nobody"]))
    unit = parts.catalog.embeddings / np.linalg.norm(
        parts.catalog.embeddings, axis=1, keepdims=True
    )
    cosine = unit[rows] @ unit.T
    cosine[np.arange(3), rows] = -np.inf
    order = np.argsort(-cosine, axis=1)[:, : LIMITS.max_k]
    for row in range(3):
        assert _ads(answer)[row] == list(parts.catalog.ad_ids[order[row]])
    expected = np.take_along_axis(cosine, order, 1)
    np.testing.assert_allclose(answer["scores"][:3], expected, rtol=1e-4)
    np.testing.assert_array_equal(answer["count"], [5, 5, 5, 0])
    by_vector = ask("similar_to_embedding", embedding=parts.catalog.embeddings[rows] * 7)
    assert [ads[0] for ads in _ads(by_vector)] == [_ad(row) for row in rows]


def test_similar_ads_by_sid_search_what_the_codes_say_and_neither_names_an_ad_that_is_off(parts):
    vectors = np.random.default_rng(8).normal(size=(ADS, 7)).astype(np.float32)
    index = BruteForce(similarity="cosine").index(vectors)
    servable = parts.servable(sid_index=index)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = [row for row in np.argsort(-(unit @ unit[5]), kind="stable") if row != 5]
    asked = {"ad_ids": np.array([_ad(5), "nobody"])}
    answer = _here(servable, "similar_ads_by_sid", asked)
    assert _ads(answer)[0] == [_ad(row) for row in nearest[: LIMITS.max_k]]
    np.testing.assert_array_equal(answer["count"], [LIMITS.max_k, 0])
    live = np.ones(ADS, bool)
    live[nearest[:3]] = False
    off = [_ad(row) for row in nearest[:3]]
    servable.set_live(live)
    answer = _here(servable, "similar_ads_by_sid", asked)
    assert _ads(answer)[0] == [_ad(row) for row in nearest[3 : LIMITS.max_k + 3]]
    embedding = {"embedding": parts.catalog.embeddings[nearest[:3]]}
    for signature, inputs in (("similar_ads", asked), ("similar_to_embedding", embedding)):
        answer = _here(servable, signature, inputs)
        assert answer["count"][0] == LIMITS.max_k
        assert not {ad for ads in _ads(answer) for ad in ads} & set(off)
    with pytest.raises(ValueError, match="no index over SID embeddings"):
        parts.servable().similar_ads_by_sid(tf.constant([_ad(5)]))


def test_encode_ads_is_what_the_tokenizer_says(ask, parts):
    examples = tf.constant([_example(title="word1 word2", advertiser="word3"), _example()])
    answer = ask("encode_ads", examples=examples)
    expected = parts.tokenizer(parts.preprocess(examples), training=False)
    np.testing.assert_array_equal(answer["sids"], expected["codes"])
    np.testing.assert_allclose(answer["embedding"], expected["embedding"], rtol=1e-4, atol=1e-6)


def test_ads_that_are_switched_off_are_never_recommended(parts):
    servable = parts.servable()
    on = np.arange(ADS) % 2 == 0
    servable.set_live(on)
    answer = _here(servable, *_requests()[1])
    assert (answer["count"] == LIMITS.max_k).all()
    for ads in _ads(answer):
        assert on[parts.catalog.rows(ads)].all()


def test_a_published_set_switches_ads_off_and_nothing_is_traced_anew(portable, parts):
    published = parts.folder / "published"
    shutil.copytree(portable[1], published, copy_function=os.link)
    on = np.arange(ADS) % 2 == 1
    fingerprint = export.read_manifest(portable[1])["fingerprints"]["catalog"]
    export.write_servable_set(str(published / export.SERVABLE_SET_FILE), on, fingerprint)
    ids = (published / "assets" / "ads.txt").read_text(encoding="utf-8").splitlines()
    assert ids == parts.catalog.ad_ids.tolist()
    inputs = {name: tf.constant(value) for name, value in _requests()[2][1].items()}
    answer = tf.saved_model.load(str(published)).signatures["recommend_filtered"](**inputs)
    # A history without known ads is in there too: popular ads obey the set as well.
    assert (answer["count"].numpy() == LIMITS.max_k).all()
    for ads in _ads({name: value.numpy() for name, value in answer.items()}):
        assert on[parts.catalog.rows(ads)].all()


def test_a_catalogue_of_three_ads_pads_and_counts(parts):
    catalog = _catalog(ads=3)
    servable = parts.servable(
        recommender=_recommender(catalog), catalog=catalog, popularity=np.array([0, 9, 3])
    )
    history = _bytes([[_ad(2)], []], LIMITS.max_history)
    answer = _here(servable, "recommend", {"history": history})
    _check_wire(answer, catalog)
    np.testing.assert_array_equal(answer["count"], [3, 3])
    assert _ads(answer)[1] == [_ad(1), _ad(2), _ad(0)]
    similar = _here(servable, "similar_ads", {"ad_ids": np.array([_ad(0), "nobody"])})
    np.testing.assert_array_equal(similar["count"], [2, 0])


def test_hybrid_can_be_the_default(parts, ask):
    servable = parts.servable(default_mode="hybrid")
    history = _bytes(HISTORIES[:1], LIMITS.max_history)
    expected = _filtered(ask, HISTORIES[:1], [[]], [False], ["hybrid"])
    assert _ads(_here(servable, "recommend", {"history": history})) == _ads(expected)


def test_the_graph_does_not_grow_with_the_catalogue(parts, portable):
    catalog = _catalog(ads=3000)
    servable = parts.servable(
        recommender=_recommender(catalog), catalog=catalog, popularity=np.ones(3000)
    )
    path = str(parts.folder / "large")
    export.save(servable, path)
    small, large = _graph_bytes(portable[1]), _graph_bytes(path)
    # The ids alone of 2,940 more ads have 10 bytes each.
    assert large[0] - small[0] < 2940
    # The largest are the names of all variables, for restoring them.
    assert max(small[1], large[1]) < 25_000


def test_no_table_is_copied_by_a_request(portable):
    # Of a variable that one operation reads by rows TensorFlow gives every other a copy.
    assert not [node.name for node in _nodes(portable[1]) if node.op == "ResourceGather"]


def _graph_bytes(path: str) -> tuple[int, int]:
    """Bytes of all graphs of a SavedModel, and of their largest constant."""
    constants = [
        node.attr["value"].tensor.ByteSize() for node in _nodes(path) if node.op == "Const"
    ]
    return sum(graph.ByteSize() for graph in read_graphs(path)), max(constants)


def _nodes(path: str) -> list:
    """Nodes of all graphs and functions of a SavedModel."""
    return [
        node
        for graph in read_graphs(path)
        for nodes in (graph.node, *(function.node_def for function in graph.library.function))
        for node in nodes
    ]


def test_the_manifest_names_the_generation(portable, parts):
    manifest = export.read_manifest(portable[1])
    assert manifest["fingerprints"] == parts.catalog.fingerprints
    assert manifest["limits"] == LIMITS.to_dict()
    assert manifest["index"] == "brute_force"
    assert manifest["ads"] == ADS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default_mode": "both"}, "default_mode must be one of"),
        ({"popularity": np.ones(3)}, "popularity has 3 counts, the catalogue 60"),
        ({"popularity": np.full(ADS, -1)}, "popularity of row 0 is -1"),
        ({"catalog": _catalog(seed=5)}, "not this catalogue"),
        ({"catalog": _catalog(ads=7)}, "60 ads are not this catalogue's 7"),
        ({"index": BruteForce().index(np.eye(3))}, "the index has 3 ads"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts, changes, message):
    with pytest.raises(ValueError, match=message):
        parts.servable(**changes)


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"max_k": 0}, "max_k must be at least 1"), ({"beam_size": 3}, "beam_size=3 must be")],
)
def test_impossible_limits_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        WireLimits(**limits)


@pytest.mark.parametrize("ad_id", ["", "a\nb", "a\r"])
def test_an_id_that_the_table_cannot_hold_is_refused(ad_id):
    with pytest.raises(ValueError, match="row 1 is empty or has a line break"):
        IdTable(np.array(["a", ad_id], dtype=object))


def test_places_of_no_rows_are_none():
    rows = tf.zeros([0, 9], tf.int32)
    assert gather_places(rows, *newest_places(rows, width=4)).shape == [0, 4]


@given(
    histories=st.lists(
        st.lists(st.integers(-1, 9), min_size=9, max_size=9), min_size=1, max_size=3
    ),
    width=st.integers(1, 12),
)
@settings(max_examples=30, deadline=None)
def test_newest_keeps_the_last_known_ads_in_order(histories, width):
    expected = []
    for history in histories:
        known = [row + 1 for row in history if row >= 0][-width:]
        expected.append(known + [0] * (width - len(known)))
    rows = tf.constant(histories)
    found = gather_places(rows + 1, *newest_places(rows, width))
    np.testing.assert_array_equal(found, expected)
