"""Callbacks on a toy tokenizer: schedules, groups, and who sees which figure in the logs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from sid_tfx.callbacks import (
    CodebookRefit,
    CollapseGuard,
    ConflictMining,
    DeadCodeRevival,
    DiversityRefresh,
    ExplorationDecay,
    LearningRateDecay,
    SidHealth,
    writers_first,
)
from sid_tfx.callbacks.given import each_callback, still_needed
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.losses import CodeDiversity

pytestmark = pytest.mark.unit

ADS = {"vector": np.random.default_rng(0).normal(size=(40, 4)).astype("float32")}
BATCHES = PairBatches(ADS, np.zeros((0, 2)))
HEALTH = ("collision_share", "largest_group", "entropy_nats")


class Quantizer(keras.layers.Layer):
    """Codes without a revival: the sign of the first numbers."""

    def __init__(self, explores):
        super().__init__()
        self.codebooks = self.add_weight(shape=(2, 8, 4), initializer="glorot_uniform")
        if explores:
            self.exploration = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(2.0), trainable=False
            )
            self.initial_exploration = 2.0
        self.built = True

    def revive(self, threshold=0.05, seed=0):
        return 0


class Toy(keras.Model):
    def __init__(self, explores=False):
        super().__init__()
        self.quantizer = Quantizer(explores)
        self.codebook_size = 8
        self.initialized = 0
        self.explored = []

    def call(self, features):
        return ops.cast(features["vector"][:, :2] > 0, "int32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if hasattr(self.quantizer, "exploration"):
            self.explored.append(float(self.quantizer.exploration))
        return ops.mean(ops.square(self.quantizer.codebooks))

    def encode(self, features, batch_size=8):
        return {"codes": np.asarray(self(features)), "z": features["vector"]}

    def initialize(self, features):
        self.initialized += 1


def fit(model, callbacks, epochs=4, **arguments):
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    batches = PairBatches(ADS, np.zeros((0, 2), int), batch_size=20)
    callbacks = [
        callback(batches) if callback is ConflictMining else callback for callback in callbacks
    ]
    arguments = {"verbose": 0, "shuffle": False, **arguments}
    return model.fit(batches, epochs=epochs, callbacks=callbacks, **arguments).history


def scalars(folder):
    found = {}
    for path in folder.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag.removeprefix("epoch_"), []).append(
                    float(tf.make_ndarray(value.tensor))
                    if value.tensor.dtype == tf.float32
                    else None
                )
    return found


def test_tensorboard_reads_the_health_of_every_epoch(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    explored = ExplorationDecay(until=1.0)
    history = fit(Toy(True), writers_first([board, SidHealth(ADS), CollapseGuard(), explored]))
    logged = scalars(tmp_path / "train")
    for name in (*HEALTH, "exploration"):
        assert logged[name] == pytest.approx(history[name]), name
        assert len(logged[name]) == 4


def test_writers_come_first_and_keep_their_order():
    board, guard = keras.callbacks.TensorBoard("unused"), CollapseGuard()
    health, decay = SidHealth(ADS), ExplorationDecay()
    assert writers_first([board, health, guard, decay]) == [health, decay, board, guard]


def test_averages_of_the_weights_are_what_writers_measure():
    swap, health = keras.callbacks.SwapEMAWeights(swap_on_epoch=True), SidHealth(ADS)
    guard = CollapseGuard()
    assert writers_first([swap, guard, health]) == [swap, health, guard]


def test_the_progress_bar_shows_health_wherever_the_callback_stands(capsys):
    fit(Toy(), [CollapseGuard(), SidHealth(ADS)], epochs=1, verbose=2)
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in HEALTH)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]), ("cosine", [2.0, 1.7071, 1.0, 0.2929, 0.0, 0.0])],
)
def test_exploration_falls_from_its_start_to_none(schedule, expected):
    model = Toy(explores=True)
    history = fit(model, [ExplorationDecay(until=4 / 6, schedule=schedule)], epochs=6)
    assert history["exploration"] == pytest.approx(expected, abs=1e-4)
    assert model.explored == pytest.approx(np.repeat(expected, 2), abs=1e-4), "in every step"


def test_every_training_explores_from_the_start():
    model = Toy(explores=True)
    first = fit(model, [ExplorationDecay(until=1.0)])["exploration"]
    assert float(model.quantizer.exploration) < 1.0
    assert fit(model, [ExplorationDecay(until=1.0)])["exploration"] == first


def test_learning_rate_falls_by_a_cosine_and_comes_back():
    model = Toy()
    history = fit(model, [LearningRateDecay(final_share=0.1)])
    expected = 0.1 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4)))
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_a_quantizer_that_does_not_explore_is_refused():
    with pytest.raises(ValueError, match=r"got Quantizer without; .* gradient='gumbel'"):
        fit(Toy(), [ExplorationDecay()])


def test_groups_are_there_before_the_first_step_and_follow_the_code_vectors():
    model, diversity = Toy(), CodeDiversity(2, 8, clusters=4)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(np.asarray(diversity.groups).copy())
    )
    move = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.quantizer.codebooks.assign(
            np.random.default_rng(epoch).normal(size=(2, 8, 4))
        )
    )
    fit(model, [DiversityRefresh(diversity, every=2), watch, move], epochs=4)
    assert seen[0].min() == 0
    assert all((np.bincount(level) == 2).all() for groups in seen for level in groups)
    np.testing.assert_array_equal(seen[0], seen[3])
    assert (seen[3] != seen[4]).any(), "two steps an epoch, a new grouping after two epochs"


def test_callbacks_work_with_a_quantizer_without_revival():
    model, revival = Toy(), DeadCodeRevival(every=1)
    history = fit(model, [revival, CodebookRefit(ADS, at=(0.5,)), ConflictMining])
    assert len(history["loss"]) == 4
    assert revival.revived == 0
    assert model.initialized == 1


def test_a_given_callback_of_the_kind_or_a_subclass_does_the_work():
    class Revival(DeadCodeRevival):
        pass

    needed = [DeadCodeRevival(), LearningRateDecay(), ExplorationDecay()]
    assert still_needed(needed, []) == needed
    assert still_needed(needed, [Revival(), SidHealth(ADS)]) == needed[1:]
    assert still_needed(needed, [LearningRateDecay()]) == [needed[0], needed[2]]
    nested = keras.callbacks.CallbackList([keras.callbacks.CallbackList([Revival()])])
    assert still_needed(needed, [nested]) == needed[1:]


def test_the_guard_judges_from_the_first_epoch_on():
    def watch(guard, shares):
        guard.on_train_begin()
        for epoch, share in enumerate(shares):
            guard.on_epoch_end(epoch, {"distinct_share": share})

    guard, patient = CollapseGuard(), CollapseGuard(after=1)
    with pytest.warns(UserWarning, match="Codebook collapse") as given:
        watch(guard, [0.3, 0.6, 0.4])
    assert [str(each.message).split(" of a batch")[0] for each in given] == [
        "Codebook collapse: after epoch 1 only 30.0%",
        "Codebook collapse: after epoch 3 only 40.0%",
    ]
    assert guard.collapsed == {1: 0.3, 3: 0.4}
    watch(guard, [0.6])
    watch(patient, [0.3, 0.6])
    assert guard.collapsed == patient.collapsed == {}


def test_callbacks_in_lists_of_callbacks_are_found_in_order():
    first, second, third = CollapseGuard(), SidHealth(ADS), DeadCodeRevival()
    nested = keras.callbacks.CallbackList([second, keras.callbacks.CallbackList([third])])
    assert list(each_callback([first, nested])) == [first, second, third]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExplorationDecay(until=0.0), r"until .* 0\.0"),
        (lambda: ExplorationDecay(schedule="step"), r"\['cosine', 'linear'\], got 'step'"),
        (lambda: DiversityRefresh(CodeDiversity(1, 8, 2), every=0), "every .* 0"),
        (lambda: SidHealth(ADS, every=0), "every .* 0"),
        (lambda: ConflictMining(BATCHES, every=0), "every .* 0"),
        (lambda: ConflictMining(BATCHES, replay=1.0), r"replay .* 1\.0"),
        (lambda: ConflictMining(BATCHES, batch_size=0), "batch_size .* 0"),
        (lambda: CollapseGuard(after=-1), "after .* -1"),
        (lambda: CollapseGuard(distinct_share=0.0), r"distinct_share .* 0\.0"),
        (lambda: DeadCodeRevival(threshold=1.0), r"threshold .* 1\.0"),
        (lambda: CodebookRefit(ADS, at=(0.0,)), "at must hold"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
