import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.callbacks import (
    CollapseGuard,
    ConflictMining,
    DeadCodeRevival,
    SidHealth,
)
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.encoders import VectorEncoder
from sid_tfx.features import ESCAPE_CODE, AdSchema, FeatureSizes
from sid_tfx.fingerprint import fingerprint
from sid_tfx.metrics.sid_quality import sid_quality
from sid_tfx.quantizers import ResidualQuantizer, VectorQuantizer
from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, catalogue, pairs, small_tokenizer

pytestmark = pytest.mark.unit


def eager(**arguments):
    """A tokenizer whose few steps are not worth tracing a graph for."""
    model = small_tokenizer(**arguments)
    model.compile(run_eagerly=True)
    return model


def vector_tokenizer(**arguments):
    """A small `rq_vae`, whose steps take a tenth of the time."""
    encoder = VectorEncoder(SCHEMA, code_dim=4, hidden=())
    quantizer = ResidualQuantizer(3, 8, 4)
    weights = {"reconstruction": 1.0, "quantization": 1.0}
    model = SidTokenizer(encoder, quantizer, weights, decoder_units=(8,), **arguments)
    model.compile(run_eagerly=True)
    return model


def small_quasid(**arguments):
    """A small `quasid`, on the catalogue's vectors."""
    encoder = {"code_dim": 8, "hidden": (16,)}
    arguments = {"codebook_size": 16, "decoder_units": (16,), **arguments}
    return SidTokenizer.from_preset("quasid", SCHEMA, SIZES, encoder=encoder, **arguments)


def batches(features, size=64, seed=0):
    return PairBatches(features, pairs(features, 200), batch_size=size, seed=seed)


def as_dataset(data):
    """The batches of an epoch, as they are now."""
    made = [data[index][0] for index in range(len(data))]
    stacked = {name: np.stack([batch[name] for batch in made]) for name in made[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


@pytest.fixture(scope="module")
def ads():
    return catalogue(300)


@pytest.fixture(scope="module")
def trained(ads):
    model = small_tokenizer()
    history = model.fit(batches(ads), epochs=40, verbose=0)
    return model, history.history


@pytest.fixture(scope="module")
def trained_quasid(ads):
    model = small_quasid()
    history = model.fit(batches(ads), epochs=40, verbose=0)
    return model, history.history


def test_outputs_have_the_contract_shapes_and_dtypes(ads, trained):
    out = trained[0].encode(ads)
    assert {name: (v.shape, v.dtype.name) for name, v in out.items()} == {
        "codes": ((300, 3), "int32"),
        "embedding": ((300, 16), "float32"),
        "sid_embedding": ((300, 16), "float32"),
        "z": ((300, 24), "float32"),
    }
    assert out["codes"].min() >= 0
    assert out["codes"].max() < 16
    np.testing.assert_allclose(np.linalg.norm(out["embedding"], axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(out["z"], axis=1), 1.0, atol=1e-5)


def test_sid_embedding_depends_on_the_codes_alone(ads, trained):
    model = trained[0]
    out = model.encode(ads)
    from_codes = model.reconstruct(model.quantizer.decode(out["codes"]))
    np.testing.assert_allclose(from_codes, out["sid_embedding"], atol=1e-4)


def test_batch_order_and_size_do_not_change_codes(ads, trained):
    model = trained[0]
    codes = model.encode(ads)["codes"]
    order = np.random.default_rng(0).permutation(300)
    shuffled = {name: values[order] for name, values in ads.items()}
    np.testing.assert_array_equal(model.encode(shuffled, batch_size=77)["codes"], codes[order])
    one = {name: values[:1] for name, values in ads.items()}
    np.testing.assert_array_equal(model.encode(one)["codes"], codes[:1])


def test_training_lowers_the_loss_and_logs_every_term_and_health(trained):
    history = trained[1]
    assert history["loss"][-1] < history["loss"][0]
    for name in ("embedding_contrastive", "reconstruction", "summary"):
        assert history[name][-1] < 0.7 * history[name][0], name
    terms = [
        "level_contrastive",
        "embedding_contrastive",
        "summary",
        "reconstruction",
        "quantization",
        "dual_tower",
        "escape",
        "repulsion",
    ]
    health = {"distinct_share", *(f"perplexity_{n}" for n in "123")}
    assert set(history) == {"loss", *terms, *health, "learning_rate"}
    total = sum(history[name][-1] for name in terms)
    assert history["loss"][-1] == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("run", ["trained", "trained_quasid"])
def test_a_small_run_does_not_collapse(run, ads, request):
    model, history = request.getfixturevalue(run)
    quality = sid_quality(model.encode(ads)["codes"], 16, ads["category"][:, 1])
    assert quality["collision_share"] < 0.25
    assert quality["largest_group"] <= 4
    assert min(quality["perplexity"]) > 10
    assert min(quality["coverage"]) > 0.8
    assert history["distinct_share"][-1] > 0.8
    assert quality["v_measure"][0] > 0.3, "the first code follows the category"


@pytest.mark.parametrize("make", [small_tokenizer, small_quasid])
def test_the_same_seed_trains_the_same_model(make, ads):
    prints = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed + len(prints))
        model = make(seed=seed)
        model.compile(model.optimizer, run_eagerly=True)
        model.fit(batches(ads, 150), epochs=1, verbose=0)
        prints.append(fingerprint(model))
    assert prints[0] == prints[1]
    assert prints[0] != prints[2]


def test_ranked_codes_start_with_the_assigned_ones(ads, trained):
    model = trained[0]
    ranked = model.ranked_codes(ads, 7, batch_size=128)
    assert ranked.shape == (300, 7, 3)
    np.testing.assert_array_equal(ranked[:, 0], model.encode(ads)["codes"])
    assert all(len(np.unique(row, axis=0)) == 7 for row in ranked)


def test_keras_file_round_trip_keeps_answers_and_training_goes_on(ads, trained, tmp_path):
    model = trained[0]
    path = tmp_path / "tokenizer.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert fingerprint(loaded) == fingerprint(model)
    before, after = model.encode(ads), loaded.encode(ads)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    books = np.asarray(loaded.quantizer.codebooks).copy()
    loaded.run_eagerly = True
    loaded.fit(batches(ads, 150), epochs=1, verbose=0)
    moved = np.abs(np.asarray(loaded.quantizer.codebooks) - books).max()
    assert 0 < moved < 0.5, "a loaded tokenizer's codebooks are trained on, not made anew"


def test_config_round_trip_is_json():
    model = small_tokenizer(loss_weights={"summary": 0.5}, radius=2, encoder={"level_decay": 0.5})
    config = json.loads(json.dumps(model.get_config()))
    copy = SidTokenizer.from_config(config)
    assert copy.get_config() == model.get_config()
    assert [w.shape for w in copy.weights] == [w.shape for w in model.weights]


def test_parts_of_ones_own_survive_a_keras_file(ads, tmp_path):
    encoder = VectorEncoder(SCHEMA, code_dim=4, hidden=(), trainable=False)
    quantizer = VectorQuantizer(3, 8, 4, slices=[(0, 4), (0, 2), (2, 4)])
    model = SidTokenizer(encoder, quantizer, {"reconstruction": 1.0, "quantization": 1.0})
    model.initialize(ads)
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.models.load_model(tmp_path / "tokenizer.keras")
    np.testing.assert_array_equal(loaded.encode(ads)["codes"], model.encode(ads)["codes"])
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize("make", [small_tokenizer, vector_tokenizer])
@pytest.mark.parametrize("part", ["encoder", "quantizer", None])
def test_what_is_frozen_stays_frozen_in_a_keras_file(make, part, ads, tmp_path):
    model = make()
    model.initialize(ads)
    trained = len(model.trainable_variables)
    (getattr(model, part) if part else model).trainable = False
    model.compile(run_eagerly=True)
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.models.load_model(tmp_path / "tokenizer.keras")
    assert loaded.objective.terms == model.objective.terms
    assert len(loaded.trainable_variables) == len(model.trainable_variables) < trained
    np.testing.assert_array_equal(loaded.encode(ads)["codes"], model.encode(ads)["codes"])
    batch = batches(ads, 40)[0][0]
    losses = [float(m.compute_loss(batch, y_pred=m(batch))) for m in (model, loaded)]
    assert losses[0] == pytest.approx(losses[1])
    if part == "encoder" and make is vector_tokenizer:
        before = fingerprint(loaded.encoder)
        loaded.fit(batches(ads, 150), epochs=1, verbose=0)
        assert fingerprint(loaded.encoder) == before


def test_terms_follow_weights_and_schema(ads):
    model = eager(
        loss_weights=dict.fromkeys(
            ["repulsion_full", "repulsion_partial", "dual_tower", "summary", "escape"], 0.0
        )
    )
    expected = ["level_contrastive", "embedding_contrastive", "reconstruction", "quantization"]
    assert model.objective.terms == expected
    history = model.fit(batches(ads, 300), epochs=1, verbose=0).history
    assert "repulsion" not in history
    bare = small_tokenizer(schema=AdSchema(text={"title": 6}), sizes=FeatureSizes(text=60))
    assert "level_contrastive" not in bare.objective.terms
    assert "summary" not in bare.objective.terms
    features = {"title_tokens": ads["title_tokens"]}
    bare.compile(run_eagerly=True)
    bare.fit(batches({**features, "category": ads["category"]}, 300), epochs=1, verbose=0)
    assert bare.encode(features)["codes"].shape == (300, 3)


def test_repulsion_acts_on_what_the_last_level_quantizes(ads):
    rows = {name: values[:40] for name, values in ads.items()} | {"ad_row": np.arange(40)}
    model = small_tokenizer(codebook_size=2, loss_weights={"escape": 0.0})
    model.initialize(ads)
    outputs = model(rows, training=True)
    repelled = model.objective(rows, outputs)["repulsion"]
    residual = np.asarray(outputs["level_inputs"])[:, -1]
    np.testing.assert_allclose(
        repelled, model.objective.repulsion(residual, outputs["codes"], rows["ad_row"]), rtol=1e-5
    )
    whole = model.objective.repulsion(outputs["z"], outputs["codes"], rows["ad_row"])
    assert abs(float(repelled) - float(whole)) > 1e-2


def test_colliding_ads_but_the_best_get_a_free_code_of_their_own(ads):
    data, model = batches(ads, 150), eager(codebook_size=8)
    model.initialize(ads)
    mining = ConflictMining(data)
    mining.prepare(model)
    mining.set_model(model)
    mining.set_params({"epochs": 2})
    assert (data.features[ESCAPE_CODE] == -1).all()
    mining.on_epoch_end(0)
    codes, wanted = model.encode(ads)["codes"], data.features[ESCAPE_CODE]
    moved = wanted >= 0
    assert moved.sum() > 10
    _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    assert (
        np.bincount(group.ravel()[moved], minlength=len(sizes))[sizes > 1] < sizes[sizes > 1]
    ).all()
    codes[moved, 2] = wanted[moved]
    assert len(np.unique(codes, axis=0)) == len(sizes) + moved.sum()
    batch = data[0][0]["ad_row"]
    mining.on_train_end()
    assert (data[0][0]["ad_row"] != batch).any(), "batches would stay full of collisions"
    assert (data.features[ESCAPE_CODE] == -1).all(), "evaluate would count codes of the past"


def test_a_catalogue_of_three_ads_trains():
    features = catalogue(3)
    model = eager()
    model.fit(PairBatches(features, np.array([[0, 1]])), epochs=2, verbose=0)
    assert np.isfinite(model.encode(features)["embedding"]).all()


def test_evaluate_reports_the_same_terms(ads, trained):
    result = trained[0].evaluate(batches(ads), verbose=0, return_dict=True)
    assert result["loss"] > 0
    assert {"repulsion", "distinct_share", "summary"} <= set(result)


def test_a_batch_without_ad_row_is_refused(ads, trained):
    model = trained[0]
    with pytest.raises(ValueError, match="ad_row"):
        model.compute_loss(ads, None, model(ads))


def test_given_callbacks_replace_the_defaults_of_their_kind(ads):
    data = batches(ads, 150)
    revival = DeadCodeRevival(every=1, threshold=0.99)
    model = eager()
    model.fit(data, epochs=1, verbose=0, callbacks=[revival, ConflictMining(data)])
    assert revival.revived > 0


def test_a_given_mining_feeds_the_escape_term_too(ads):
    data = batches(ads, 150)
    history = eager(codebook_size=4).fit(
        data, epochs=2, verbose=0, callbacks=[ConflictMining(data, replay=0.5)]
    )
    assert history.history["escape"][0] == 0.0 < history.history["escape"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mine_conflicts": False}, "'escape' needs mine_conflicts=True"),
        ({"decay_exploration": True}, "gradient='gumbel'"),
        ({"refits": (0.5, 1.5)}, r"refits .* \(0, 1\]"),
        ({"quantizer": {"initialization": "random"}}, r"refits=\(0.2, 0.4\) would move nothing"),
        ({"quantizer": {"learning": "ema"}, "loss_weights": {"diversity": 1}}, "moving averages"),
    ],
)
def test_what_would_be_left_undone_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_tokenizer(**arguments)


def test_ads_without_their_features_are_refused(ads):
    with pytest.raises(ValueError, match=r"needs the features \['title_tokens'"):
        eager().encode({"category": ads["category"]})


def test_sid_health_logs_the_catalogues_collisions(ads):
    history = eager().fit(batches(ads, 300), epochs=2, verbose=0, callbacks=[SidHealth(ads)])
    assert len(history.history["collision_share"]) == 2
    assert 0 < history.history["entropy_nats"][-1] <= np.log(300) + 1e-6


def test_collapse_guard_warns_and_stops(ads):
    model = small_tokenizer()
    model.quantizer.initialized.assign(1.0)
    model.quantizer.codebooks.assign(np.ones(model.quantizer.codebooks.shape, "float32"))
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    guard = CollapseGuard(distinct_share=0.9, after=0, stop=True)
    no_revival = DeadCodeRevival(every=10_000)
    with pytest.warns(UserWarning, match="Codebook collapse: after epoch 1"):
        history = model.fit(batches(ads, 300), epochs=5, verbose=0, callbacks=[guard, no_revival])
    assert len(history.history["loss"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": {"detail_dim": 0}}, "detail_dim must be at least 1, got 0"),
        ({"encoder": {"level_decay": 0.0}}, "level_decay .* 0.0"),
        ({"levels": 0}, "levels"),
        ({"loss_weights": {"hamr": 1}}, "hamr"),
        ({"temperature": 0.0}, "temperature"),
        ({"sizes": FeatureSizes(text=60)}, "advertiser"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_tokenizer(**arguments)


def test_fingerprint_sees_any_change(trained):
    model = trained[0]
    before = fingerprint(model)
    assert before == fingerprint(model)
    assert len(before) == 16
    kept = np.asarray(model.quantizer.codebooks)
    changed = kept.copy()
    changed[0, 0, 0] += 1e-6
    model.quantizer.codebooks.assign(changed)
    assert fingerprint(model) != before
    model.quantizer.codebooks.assign(kept)
    assert fingerprint(model) == before


def test_a_schedule_of_the_optimizer_is_left_alone(ads):
    model = small_tokenizer()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model.compile(keras.optimizers.SGD(schedule), run_eagerly=True)
    assert "learning_rate" not in model.fit(batches(ads, 300), epochs=1, verbose=0).history


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1)), 0.5 / 3),
        (lambda: keras.callbacks.ReduceLROnPlateau("loss", 0.5, 0, min_delta=1e9), 0.5**2),
    ],
)
def test_a_given_callback_of_the_learning_rate_is_left_alone(callback, expected, nested, ads):
    model = vector_tokenizer()
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    given = keras.callbacks.CallbackList([callback()]) if nested else callback()
    model.fit(batches(ads, 300), epochs=3, verbose=0, callbacks=[given])
    assert float(model.optimizer.learning_rate) == pytest.approx(expected)


def test_a_subclass_of_a_default_callback_replaces_it(ads, monkeypatch):
    class Mining(ConflictMining):
        pass

    class Revival(DeadCodeRevival):
        pass

    calls = []
    monkeypatch.setattr(
        DeadCodeRevival, "on_epoch_begin", lambda self, *_: calls.append(type(self))
    )
    monkeypatch.setattr(ConflictMining, "on_epoch_end", lambda self, *_: calls.append(type(self)))
    data = batches(ads, 300)
    model = vector_tokenizer(mine_conflicts=True)
    model.fit(data, epochs=1, verbose=0, callbacks=[Mining(data), Revival()])
    assert calls == [Revival, Mining]


@pytest.mark.parametrize(
    "make",
    [
        lambda ads: {**ads, "ad_row": np.arange(300)},
        lambda ads: [ads],
        lambda ads: ads["image_embedding"],
        lambda ads: tf.constant(ads["image_embedding"]),
        lambda ads: None,
        lambda ads: (batch for batch in [(ads,)]),
        lambda ads: iter(tf.data.Dataset.from_tensors(ads)),
    ],
)
def test_data_that_are_no_batches_to_be_read_again_are_refused(make, ads):
    model = vector_tokenizer()
    with pytest.raises(TypeError, match=r"fit needs batches.*PairBatches"):
        model.fit(make(ads), verbose=0)
    assert not float(model.quantizer.initialized)


def test_batches_in_a_tensorflow_dataset_train_in_every_epoch(ads):
    history = vector_tokenizer().fit(as_dataset(batches(ads, 100)), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    ("make", "idle"),
    [(eager, "the term 'escape' is 0"), (vector_tokenizer, "into one batch. Train")],
)
def test_mining_that_a_dataset_leaves_undone_is_said(make, idle, ads):
    data = batches(ads, 150)
    dataset = as_dataset(data)
    model = make(mine_conflicts=True)
    # Not one step: what is said is said before the first.
    model.quantizer.initialized.assign(1.0)
    with pytest.warns(UserWarning, match=rf"mine_conflicts=True does nothing on a .*{idle}"):
        model.fit(dataset, epochs=0, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(dataset, epochs=0, verbose=0, callbacks=[ConflictMining(data)])
        model.fit(data, epochs=0, verbose=0)


@pytest.mark.parametrize("argument", [{"loss": "mse"}, {"loss_weights": {"summary": 0.0}}])
def test_losses_that_compile_would_ignore_are_refused(argument):
    with pytest.raises(ValueError, match=rf"{next(iter(argument))}.*constructor's loss_weights"):
        vector_tokenizer().compile(**argument)
