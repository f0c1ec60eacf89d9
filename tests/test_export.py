"""The servable: through every loader in a fresh process, against what the parts say in this one."""

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from sid_tfx import export
from sid_tfx.catalog import SidCatalog
from sid_tfx.export import Servable, WireLimits, custom_ops
from sid_tfx.export.inventory import read_graphs
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import PADDING_SCORE, BruteForce, ScaNN
from sid_tfx.tokenizer import SidTokenizer
from tests import fresh_process

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


def _recommender(catalog: SidCatalog, seed: int = 0) -> SidRecommender:
    return SidRecommender.for_catalog(
        catalog, hidden_size=16, num_heads=2, mlp_size=32, head_size=16, max_history=8, seed=seed
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Parts:
    folder = tmp_path_factory.mktemp("export")
    catalog = _catalog()
    sizes = FeatureSizes(text=30, categorical={"advertiser": 30})
    tokenizer = SidTokenizer(
        SCHEMA, sizes, levels=LEVELS, codebook_size=CODES, embedding_dim=DIM, code_dim=8, dim=16
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


def _same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, right[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("loader", ["session", "tf2"])
@pytest.mark.parametrize("flavour", ["portable", "scann"])
def test_every_signature_answers_in_a_fresh_process_as_in_this_one(flavour, loader, request):
    servable, path = request.getfixturevalue(flavour)
    requests = _requests()
    answers = fresh_process.run(path, requests, loader, scann=flavour == "scann")
    for (signature, inputs), answer in zip(requests, answers, strict=True):
        _same(_here(servable, signature, inputs), answer)


def test_only_the_scann_servable_has_custom_ops(portable, scann):
    assert custom_ops(portable[1]) == []
    found = custom_ops(scann[1])
    assert found
    assert all(op.startswith("Scann>") for op in found)
