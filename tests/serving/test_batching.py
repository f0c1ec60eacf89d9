"""Batching: who shares a batch, that nobody notices, and what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto

from serving.batch_parameters import BatchingParameters, read_batching_parameters
from serving.batch_scheduler import BatchScheduler
from serving.batching import BatchingServable
from serving.caller import Caller
from serving.client import RecommenderClient
from serving.errors import ServingError
from serving.servable import Servable
from serving.server import ModelServer
from serving.tensors import to_array
from tests.serving.hostile_grpc import history_block
from tests.serving.http_calls import call
from tests.serving.stubs import Stubs, refused
from tests.serving.toy_servable import AD_IDS, HISTORY
from tests.serving.waiting import run, schedule

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def servable(toys: dict[int, Path]) -> Iterator[Servable]:
    loaded = Servable(toys[1], "sid_tfx", 1)
    yield loaded
    loaded.close()


def batching(servable: Servable, **parameters: object) -> tuple[BatchingServable, BatchScheduler]:
    given = BatchingParameters(**parameters)  # type: ignore[arg-type]
    scheduler = BatchScheduler(given)
    return BatchingServable(servable, scheduler, given), scheduler


def history(*ads: str) -> dict[str, np.ndarray]:
    row = [ad.encode() for ad in ads] + [b""] * (HISTORY - len(ads))
    return {"history": np.array([row], dtype=object)}


@settings(max_examples=15, deadline=None)
@given(
    histories=st.lists(
        st.lists(st.sampled_from(AD_IDS), max_size=HISTORY), min_size=1, max_size=12
    ),
    sizes=st.sampled_from([(), (1, 4, 16), (16,)]),
)
def test_histories_of_any_length_get_in_a_batch_what_they_get_alone(
    servable: Servable, histories: list[list[str]], sizes: tuple[int, ...]
) -> None:
    batched, scheduler = batching(
        servable,
        max_batch_size=16,
        batch_timeout_micros=2000,
        num_batch_threads=1,
        allowed_batch_sizes=sizes,
    )
    outputs = ["ad_ids", "scores", "sids", "count"]
    with ThreadPoolExecutor(len(histories)) as pool:
        together = list(
            pool.map(lambda ads: run(batched, "recommend", history(*ads), outputs), histories)
        )
    scheduler.close()
    for ads, answer in zip(histories, together, strict=True):
        alone = servable.run("recommend", history(*ads), outputs)
        for got, expected in zip(answer, alone, strict=True):
            if got.dtype == np.float32:
                np.testing.assert_allclose(got, expected, rtol=1e-6)
            else:
                np.testing.assert_array_equal(got, expected)


def test_calls_that_wait_together_run_together(servable: Servable) -> None:
    seen: list[tuple[int, ...]] = []
    parameters = BatchingParameters(max_batch_size=8, batch_timeout_micros=200_000)
    scheduler = BatchScheduler(parameters, lambda waits, rows: seen.append(tuple(rows)))
    batched = BatchingServable(servable, scheduler, parameters)
    begin = time.monotonic()
    with ThreadPoolExecutor(9) as pool:
        calls = [
            pool.submit(run, batched, "recommend", history("ad01"), ["count"]) for _ in range(8)
        ]
        # A full batch does not wait for its time; another signature has a queue of its own.
        for done in calls:
            done.result()
        assert time.monotonic() - begin < 0.15
        other = {"ad_ids": np.array([b"ad01"], dtype=object)}
        pool.submit(run, batched, "similar_ads", other, ["count"]).result()
    scheduler.close()
    assert sorted(seen) == [(1,), (1,) * 8]
    assert time.monotonic() - begin >= 0.2, "a batch that is not full waits for more"


def test_an_error_reaches_only_its_own_request(servable: Servable) -> None:
    batched, scheduler = batching(servable, max_batch_size=4, batch_timeout_micros=500_000)
    good = tf.train.Example()
    good.features.feature["title"].bytes_list.value.append(b"abc")
    examples = [good.SerializeToString()] * 3 + [b"not an example"]

    def encode(example: bytes) -> list[np.ndarray]:
        return run(batched, "encode_ads", {"examples": np.array([example], object)}, ["sids"])

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(encode, example) for example in examples]
    scheduler.close()
    for done in calls[:3]:
        np.testing.assert_array_equal(done.result()[0], [[3, -1, 0]])
    with pytest.raises(tf.errors.InvalidArgumentError):
        calls[3].result()


class Gate:
    """A batch runner that waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.ran: list[object] = []

    def run(self, batch: Sequence[object]) -> list[object]:
        self.begun.set()
        self.open.wait(20)
        self.ran += batch
        return list(batch)


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(ServingError) as caught:
        call()
    return caught.value.code


def test_a_full_queue_refuses_at_once_and_a_passed_deadline_is_not_run() -> None:
    scheduler = BatchScheduler(
        BatchingParameters(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=1)
    )
    gate = Gate()

    def ask(name: str, rows: int = 1, seconds: float | None = None) -> object:
        deadline = None if seconds is None else time.monotonic() + seconds
        return schedule(scheduler, "key", gate.run, name, rows, deadline)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, "first")
        assert gate.begun.wait(10)
        waiting = [pool.submit(ask, f"waits {index}") for index in range(3)]
        late = pool.submit(ask, "late", 1, 0.05)
        assert code_of(late.result) == grpc.StatusCode.DEADLINE_EXCEEDED
        while scheduler.queued_rows < 4:
            time.sleep(0.01)
        begin = time.monotonic()
        assert code_of(lambda: ask("too many")) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert time.monotonic() - begin < 1
        assert code_of(lambda: ask("too big", 3)) == grpc.StatusCode.INVALID_ARGUMENT
        gate.open.set()
        assert first.result() == "first"
        assert [done.result() for done in waiting] == ["waits 0", "waits 1", "waits 2"]
    assert ask("after") == "after"
    scheduler.close()
    assert set(gate.ran) == {"first", "waits 0", "waits 1", "waits 2", "after"}
    assert code_of(lambda: ask("closed")) == grpc.StatusCode.UNAVAILABLE


def test_a_thread_that_runs_a_batch_does_not_hold_up_what_is_due_meanwhile() -> None:
    scheduler = BatchScheduler(
        BatchingParameters(max_batch_size=8, batch_timeout_micros=50_000, num_batch_threads=2)
    )
    gate = Gate()
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(schedule, scheduler, "held", gate.run, "held", 1, None)
        free = pool.submit(schedule, scheduler, "free", list, "free", 1, None)
        assert free.result(10) == "free"
        gate.open.set()
        assert held.result(10) == "held"
    scheduler.close()


def test_a_call_whose_caller_has_gone_is_not_run_and_a_batch_is_handed_back_at_once() -> None:
    told: list[object] = []
    scheduler = BatchScheduler(
        BatchingParameters(max_batch_size=4, batch_timeout_micros=0, num_batch_threads=1),
        on_answers=lambda: told.append("all"),
    )
    gate, callers = Gate(), [Caller() for _ in range(4)]
    for index, caller in enumerate(callers):
        scheduler.submit("key", gate.run, index, 1, caller, told.append)
        assert gate.begun.wait(10)
    callers[2].gone = True
    gate.open.set()
    scheduler.close()
    assert gate.ran == [0, 1, 3]
    assert told[:2] == [0, "all"]
    gone, *rest = told[2:]
    assert isinstance(gone, ServingError)
    assert gone.code == grpc.StatusCode.CANCELLED
    assert rest == [1, 3, "all"]


def test_a_request_without_rows_runs_by_itself(servable: Servable) -> None:
    batched, scheduler = batching(servable, max_batch_size=4, allowed_batch_sizes=(4,))
    empty = {"history": np.empty([0, HISTORY], object)}
    [alone] = servable.run("recommend", empty, ["scores"])
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(run, batched, "recommend", empty, ["scores"]) for _ in range(3)]
    scheduler.close()
    for done in answers:
        np.testing.assert_array_equal(done.result()[0], alone)


def test_inputs_without_common_rows_are_refused(servable: Servable) -> None:
    batched, scheduler = batching(servable)
    inputs = {
        **history("ad01"),
        "exclude_ad_ids": np.full([2, 3], b"", object),
        "filter_seen": np.array([True]),
        "mode": np.array([b""], object),
    }
    with pytest.raises(ServingError, match="must have equal 0th-dimension size"):
        run(batched, "recommend_filtered", inputs, ["count"])
    scheduler.close()


def test_the_file_has_tf_servings_format(tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 0 }\n"
        "max_enqueued_batches { value: 1000000 } num_batch_threads { value: 8 }\n"
        'thread_pool_name { value: "pool" } allowed_batch_sizes: 64 allowed_batch_sizes: 128\n'
        "pad_variable_length_inputs: true"
    )
    assert read_batching_parameters(path) == BatchingParameters(
        128, 0, 1_000_000, 8, "pool", (64, 128), True
    )
    for text, message in (
        ("max_batch_size: 3", "max_batch_size"),
        ("max_batch { value: 3 }", 'no field named "max_batch"'),
        ("max_batch_size { value: 0 }", "max_batch_size is 0: give at least 1"),
        ("allowed_batch_sizes: 3", r"allowed_batch_sizes is \[3\]"),
        ("batch_padding_policy { value: 'PAD_UP' }", 'no field named "batch_padding_policy"'),
        (
            "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 0 }",
            "max_execution_batch_size is 0: give 1 to max_batch_size, 1000",
        ),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_batching_parameters(path)
    with pytest.raises(ValueError, match="absent"):
        read_batching_parameters(tmp_path / "absent")


def test_split_batches_are_bounded_by_their_own_parameter(tmp_path: Path) -> None:
    path = tmp_path / "batching.config"
    sizes = "max_batch_size { value: 8 } max_execution_batch_size { value: 4 }"
    path.write_text(
        f"{sizes} enable_large_batch_splitting {{ value: true }} allowed_batch_sizes: 4"
    )
    assert read_batching_parameters(path).execution_batch_size == 4
    # As in TF Serving, a request that is not split knows no other bound than max_batch_size.
    path.write_text(f"{sizes} enable_large_batch_splitting {{ value: false }}")
    assert read_batching_parameters(path).execution_batch_size == 8


def test_a_request_of_more_rows_than_a_batch_is_split(servable: Servable) -> None:
    seen: list[int] = []
    parameters = BatchingParameters(
        max_batch_size=8, enable_large_batch_splitting=True, max_execution_batch_size=3
    )
    scheduler = BatchScheduler(parameters, lambda waits, rows: seen.append(sum(rows)))
    batched = BatchingServable(servable, scheduler, parameters)
    outputs = ["ad_ids", "scores", "count"]

    def rows(count: int) -> dict[str, np.ndarray]:
        return {"history": np.concatenate([history(ad)["history"] for ad in AD_IDS[:count]])}

    split = run(batched, "recommend", rows(8), outputs)
    assert sorted(seen) == [2, 3, 3]
    for got, expected in zip(split, servable.run("recommend", rows(8), outputs), strict=True):
        if got.dtype == np.float32:
            np.testing.assert_allclose(got, expected, rtol=1e-6)
        else:
            np.testing.assert_array_equal(got, expected)
    with pytest.raises(ServingError, match="Task size 9 is larger than maximum batch size 8"):
        run(batched, "recommend", rows(9), outputs)
    scheduler.close()


class Doubles:
    """A servable that doubles its input and does what it is told to while it runs."""

    path, name, version, meta_graph = Path("doubles"), "doubles", 1, None

    def __init__(self, toy: Servable, meanwhile: Callable[[np.ndarray], None]) -> None:
        self.signatures = {"double": toy.signatures["recommend"]}
        self._meanwhile = meanwhile

    def run(
        self, signature: str, inputs: dict[str, np.ndarray], outputs: Sequence[str]
    ) -> list[np.ndarray]:
        self._meanwhile(inputs["history"])
        return [2 * inputs["history"]] * len(outputs)


def split_in_pieces(
    toy: Servable, meanwhile: Callable[[np.ndarray], None], rows: int, **parameters: int
) -> list[np.ndarray]:
    given = BatchingParameters(
        max_batch_size=1000,
        enable_large_batch_splitting=True,
        max_execution_batch_size=1,
        **parameters,  # type: ignore[arg-type]
    )
    scheduler = BatchScheduler(given)
    batched = BatchingServable(Doubles(toy, meanwhile), scheduler, given)  # type: ignore[arg-type]
    try:
        return run(batched, "double", {"history": np.arange(rows)[:, None]}, ["scores"])
    finally:
        scheduler.close()


def test_pieces_run_at_once(servable: Servable) -> None:
    # Nobody passes before all three are there.
    together = threading.Barrier(3, timeout=20)

    def meet(_: np.ndarray) -> None:
        together.wait()

    [answer] = split_in_pieces(servable, meet, 9, num_batch_threads=3)
    np.testing.assert_array_equal(answer, 2 * np.arange(9)[:, None])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 3))
def test_pieces_wait_for_room_in_the_queue(
    servable: Servable, rows: int, threads: int, room: int
) -> None:
    [answer] = split_in_pieces(
        servable, lambda _: time.sleep(0.001), rows, num_batch_threads=threads,
        max_enqueued_batches=room,
    )  # fmt: skip
    np.testing.assert_array_equal(answer, 2 * np.arange(rows)[:, None])


def test_an_error_is_told_when_no_piece_runs_any_more(servable: Servable) -> None:
    begun, ended = [], []

    def fails_first(value: np.ndarray) -> None:
        begun.append(int(value[0, 0]))
        if begun[-1] == 0:
            raise ValueError("the first piece fails")
        time.sleep(0.2)
        ended.append(begun[-1])

    with pytest.raises(ValueError, match="the first piece fails"):
        split_in_pieces(servable, fails_first, 50, num_batch_threads=2)
    assert set(ended) == set(begun) - {0}
    assert len(begun) < 5, "no further piece is queued after the error"


def test_a_batching_server_answers_and_counts(toys: dict[int, Path]) -> None:
    with ModelServer(
        "sid_tfx",
        toys[1].parent,
        rest_port=0,
        max_workers=8,
        batching=BatchingParameters(max_batch_size=8, thread_pool_name="pool"),
        settle_seconds=0,
    ) as server:
        server.wait_until_available(30)
        with (
            RecommenderClient(f"127.0.0.1:{server.port}") as client,
            ThreadPoolExecutor(8) as pool,
        ):
            histories = [[ad] for ad in AD_IDS] * 5
            answers = list(pool.map(client.recommend, histories))
            for ads, answer in zip(histories, answers, strict=True):
                assert answer.ad_ids == client.recommend(ads).ad_ids
        page = call(server.rest_port or 0, "GET", server.settings.metrics_path)[1].decode()
        assert "batching_session:queued_rows 0.0" in page
        assert ':queuing_latency_count{thread_pool_name="pool"} 200.0' in page


def test_a_batch_has_more_requests_than_the_server_has_threads(
    toys: dict[int, Path], request_for: Callable
) -> None:
    with ModelServer(
        "sid_tfx",
        toys[1].parent,
        rest_port=0,
        max_workers=1,
        batching=BatchingParameters(max_batch_size=8, batch_timeout_micros=10_000_000),
        settle_seconds=0,
    ) as server:
        server.wait_until_available(30)
        stubs = Stubs(server.port)
        with stubs.channel:
            begin = time.monotonic()
            calls = [
                stubs.prediction.Predict.future(request_for("recommend", **history(ad)))
                for ad in AD_IDS[:8]
            ]
            for done in calls:
                assert list(done.result(20).outputs["count"].int_val) == [4]
            assert time.monotonic() - begin < 5, "a full batch does not wait"
            # Nobody is left to answer when this one's time is up, and it is not run.
            late = stubs.prediction.Predict.future(
                request_for("recommend", **history("ad01")), timeout=0.1
            )
            assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            garbage = request_for("encode_ads", examples=np.array([b"no example"] * 8, object))
            assert stubs.prediction.Predict.future(garbage).code() == (
                grpc.StatusCode.INVALID_ARGUMENT
            )
        page = call(server.rest_port or 0, "GET", server.settings.metrics_path)[1].decode()
        assert ":processed_batch_size_sum 16.0" in page


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that decode inputs of requests."""
    threads: list[str] = []

    def decode(proto: TensorProto, max_bytes: int) -> np.ndarray:
        threads.append(threading.current_thread().name)
        return to_array(proto, max_bytes)

    monkeypatch.setattr("serving.predict.to_array", decode)
    return threads


@pytest.mark.parametrize(
    "bound", [{"batching": BatchingParameters(max_batch_size=8)}, {"max_rows": 8}]
)
def test_more_rows_than_are_taken_are_refused_before_they_are_decoded(
    toys: dict[int, Path], request_for: Callable, decoding: list[str], bound: dict
) -> None:
    with ModelServer("sid_tfx", toys[1].parent, settle_seconds=0, **bound) as server:
        server.wait_until_available(30)
        stubs, request = Stubs(server.port), request_for("recommend")
        with stubs.channel:
            for rows in (9, 1_600_000):
                history_block(request, rows, HISTORY).string_val.append(b"ad01")
                assert refused(stubs.prediction.Predict, request) == (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Task size {rows} is larger than maximum batch size 8",
                )
            assert not decoding
            history_block(request, 8, HISTORY).string_val.append(b"ad01")
            assert list(stubs.prediction.Predict(request).outputs["count"].int_val) == [4] * 8
    # One that waits for its batch is decoded by the loop, one that is run at once by its thread.
    assert [name.split("_")[0] for name in decoding] == ["grpc" if "batching" in bound else "rpc"]


def test_what_a_small_message_decodes_to_decides_where(
    tmp_path: Path, request_for: Callable, decoding: list[str]
) -> None:
    class Sums(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "values")])
        def sums(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"sums": tf.reduce_sum(values, axis=1)}

    module = Sums()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.sums})
    with ModelServer(
        "sid_tfx", tmp_path, batching=BatchingParameters(), settle_seconds=0
    ) as server:
        server.wait_until_available(30)
        stubs, request = Stubs(server.port), request_for("")
        proto = request.inputs["values"]
        proto.dtype = tf.float32.as_datatype_enum
        proto.float_val.append(1.0)
        sizes = [proto.tensor_shape.dim.add(size=1), proto.tensor_shape.dim.add()]
        with stubs.channel:
            for width in (16_384, 16_385):
                sizes[1].size = width
                answer = stubs.prediction.Predict(request).outputs["sums"]
                assert list(answer.float_val) == [width]
    # 64 KiB in the loop, more of them in a thread that keeps nobody else waiting.
    assert [name.split("_")[0] for name in decoding] == ["grpc", "rpc"]
