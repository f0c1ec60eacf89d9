"""The client: shapes it learns, padding, trimming, typed results, errors, retries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.client import RecommenderClient
from serving.client_errors import (
    InvalidRequestError,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from serving.examples import ad_example
from serving.server import ModelServer
from serving.wire import as_batch
from tests.serving.toy_servable import AD_IDS, ADS, DIM, EXCLUDE, HISTORY, K, save_toy

pytestmark = pytest.mark.unit


def test_one_history_gives_one_answer_and_several_a_list(client: RecommenderClient) -> None:
    one = client.recommend(["ad01", "ad02"])
    assert len(one) == K
    assert one.model_version == 1
    assert one.scores == sorted(one.scores, reverse=True)
    assert [len(ad.sid) for ad in one.ads] == [3] * K
    several = client.recommend([["ad01", "ad02"], ["ad05"], []])
    assert several[0] == one
    assert len(several) == 3
    assert client.recommend([[]]) == [client.recommend([])]


def test_k_trims_and_is_checked(client: RecommenderClient) -> None:
    everything = client.recommend(["ad01"])
    assert client.recommend(["ad01"], k=2).ads == everything.ads[:2]
    with pytest.raises(ValueError, match=f"k is 9, the servable returns {K}"):
        client.recommend(["ad01"], k=9)
    with pytest.raises(ValueError, match="k is 0"):
        client.similar_ads(["ad01"], k=0)


def test_a_context_arrives_at_its_place(client: RecommenderClient) -> None:
    plain = client.recommend_filtered(["ad01", "ad02"], mode="hybrid")
    context: dict[str, Any] = {
        "timestamps": [3, 5],
        "events": ["", "buy"],
        "weights": [0.5, np.float32(0.25)],
    }
    answer = client.recommend_in_context(["ad01", "ad02"], **context, mode="hybrid")
    bonus = (3 + 2 * 5) + 100 * (2 * 3) + 10_000 * (0.5 + 2 * 0.25)
    np.testing.assert_allclose(answer.scores, np.add(plain.scores, bonus), rtol=1e-5)
    assert client.recommend_in_context(["ad01", "ad02"]).ads == (
        client.recommend_filtered(["ad01", "ad02"]).ads
    )
    several = client.recommend_in_context(
        [["ad01", "ad02"], ["ad05"], []], timestamps=[[3, 5], [0], []], exclude=["ad07"]
    )
    alone = client.recommend_in_context(["ad01", "ad02"], timestamps=[3, 5], exclude=["ad07"])
    assert several[0].ads == alone.ads
    assert several[1].ads == client.recommend_filtered(["ad05"], exclude=["ad07"]).ads
    # The newest ads of a long history keep their own values.
    times = list(range(len(AD_IDS)))
    assert (
        client.recommend_in_context(AD_IDS, timestamps=times).ads
        == client.recommend_in_context(AD_IDS[-HISTORY:], timestamps=times[-HISTORY:]).ads
    )


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        ({"timestamps": [5, 3]}, ValueError, "timestamps go from 5 back to 3"),
        ({"timestamps": [5]}, ValueError, "timestamps has 1 values for a history of 2 ads"),
        ({"timestamps": [5, 6.5]}, TypeError, "a timestamp is 6.5: send whole Unix seconds"),
        ({"timestamps": [-5, 6]}, ValueError, "a timestamp is -5"),
        ({"timestamps": [5, 2**70]}, ValueError, "a timestamp is 1180591620717411303424"),
        ({"timestamps": [[5, 6], [7]]}, TypeError, "whole Unix seconds"),
        ({"events": ["buy"]}, ValueError, "events has 1 values .* an empty string"),
        ({"events": "buy"}, TypeError, "events is 'buy': give a list"),
        ({"events": ["buy", None]}, TypeError, "an event type is None"),
        ({"weights": [1.0, float("nan")]}, ValueError, "a weight is nan"),
        ({"weights": [1.0, -0.5]}, ValueError, "a weight is -0.5"),
        ({"weights": [1.0, "2"]}, TypeError, "a weight is '2'"),
    ],
)
def test_a_context_that_does_not_fit_is_named(
    client: RecommenderClient, context: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        client.recommend_in_context(["ad01", "ad02"], **context)


def test_each_history_of_a_call_needs_its_own_context(client: RecommenderClient) -> None:
    with pytest.raises(ValueError, match="timestamps has 1 lists for 2 histories"):
        client.recommend_in_context([["ad01"], ["ad02"]], timestamps=[[1]])
    with pytest.raises(TypeError, match="timestamps holds 1: give one list a history"):
        client.recommend_in_context([["ad01"], ["ad02"]], timestamps=[1, 2])  # type: ignore[list-item]
    # An unknown time between two others is none that goes back.
    client.recommend_in_context(["ad01", "ad02", "ad03"], timestamps=[5, 0, 6])


def test_a_long_history_keeps_its_newest_ads(client: RecommenderClient) -> None:
    newest = AD_IDS[-HISTORY:]
    assert client.recommend(AD_IDS).ads == client.recommend(newest).ads
    assert client.recommend(AD_IDS).ads != client.recommend(AD_IDS[:HISTORY]).ads


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    histories=st.lists(
        st.lists(st.sampled_from([*AD_IDS, "unknown", "ünïcode"]), max_size=9),
        min_size=1,
        max_size=5,
    )
)
def test_a_row_does_not_depend_on_its_batch(
    client: RecommenderClient, histories: list[list[str]]
) -> None:
    together = client.recommend(histories)
    for history, answer in zip(histories, together, strict=True):
        assert client.recommend(history).ad_ids == answer.ad_ids


def test_seen_ads_older_than_the_servable_reads_stay_filtered(client: RecommenderClient) -> None:
    newest = ["ad01", "ad13", "ad05", "ad07", "ad09"]
    older = client.recommend_filtered(newest, filter_seen=True).ad_ids[:2]
    # An ad that is named twice or excluded anyway takes one exclusion, padding takes none.
    history = [older[0], "", older[1], "ad01", older[0], *newest]
    answers = [
        client.recommend_filtered(history, exclude=older[:1], filter_seen=True),
        client.recommend_in_context(history, filter_seen=True),
        client.recommend_filtered([newest, history], filter_seen=True)[1],
        client.recommend_filtered(np.array(history), filter_seen=True),  # type: ignore[call-overload]
    ]
    for answer in answers:
        assert len(answer) == K
        assert not set(history) & set(answer.ad_ids)
    assert client.recommend_filtered(history).ads == client.recommend_filtered(newest).ads
    with pytest.raises(ValueError, match=r"3 ads of a history are older than the 5 newest.*1 ads"):
        client.recommend_filtered(
            ["ad02", "ad03", "ad04", *newest], exclude=["ad06"], filter_seen=True
        )


def test_filters(client: RecommenderClient) -> None:
    history = ["ad01", "ad13"]
    plain = client.recommend(history)
    assert client.recommend_filtered(history).ads == plain.ads
    excluded = client.recommend_filtered(history, exclude=plain.ad_ids[:2])
    assert not set(plain.ad_ids[:2]) & set(excluded.ad_ids)
    unseen = client.recommend_filtered([history, ["ad05"]], filter_seen=True, k=3)
    assert not set(history) & set(unseen[0].ad_ids)
    assert "ad05" not in unseen[1].ad_ids
    assert [len(answer) for answer in unseen] == [3, 3]
    hybrid = client.recommend_filtered(history, mode="hybrid")
    np.testing.assert_allclose(hybrid.scores, np.array(plain.scores) + 1, rtol=1e-6)
    with pytest.raises(ValueError, match=f"4 ads to exclude, the servable takes {EXCLUDE}"):
        client.recommend_filtered(history, exclude=AD_IDS[:4])
    with pytest.raises(ValueError, match="mode is 'beam': choose one of"):
        client.recommend_filtered(history, mode="beam")


def test_encode_and_similar(client: RecommenderClient) -> None:
    ads: list[dict[str, Any]] = [
        {"ad_id": "n1", "title": "abc", "price": 7, "category_path": ["Shoes", "Trail"]},
        {"ad_id": "n2", "title": None, "price": float("nan"), "category_path": []},
    ]
    first, second = client.encode_ads(ads)
    assert first.sid == (3, 7, 2)
    assert second.sid == (0, -1, 0)
    assert first.embedding.shape == (DIM,)
    assert first.embedding.dtype == np.float32
    [near] = client.similar_to_embedding(first.embedding)
    assert near.ad_ids[0] == AD_IDS[3]
    pair = client.similar_to_embedding(np.stack([first.embedding, second.embedding]), k=1)
    assert [answer.ad_ids for answer in pair] == [["ad03"], ["ad00"]]
    [similar] = client.similar_ads(["ad03"], k=2)
    assert similar.ad_ids == near.ad_ids[1:3]
    assert similar.ads[0].sid == ()
    assert client.encode_ads([]) == []
    assert client.similar_ads([]) == []
    with pytest.raises(ValueError, match="by is 'codes': choose one of"):
        client.similar_ads(["ad03"], by="codes")
    with pytest.raises(InvalidRequestError, match='key "similar_ads_by_sid" not found'):
        client.similar_ads(["ad03"], by="sid")
    with pytest.raises(ValueError, match=r"embedding has shape \(1, 5\), the servable's have 8"):
        client.similar_to_embedding([0.0] * 5)
    with pytest.raises(ValueError, match="NaN"):
        client.similar_to_embedding([float("nan")] * 8)


@pytest.mark.parametrize("history", ["ad01", [1, 2], [["ad01"], [3]], [None]])
def test_ids_that_are_not_strings_are_refused(client: RecommenderClient, history: Sequence) -> None:
    with pytest.raises(TypeError, match=r"ids are strings|give a list of ad ids"):
        client.recommend(history)


def test_as_batch_tells_one_history_from_several() -> None:
    assert as_batch([]) == ([[]], True)
    assert as_batch(["a"]) == ([["a"]], True)
    assert as_batch([["a"], []]) == ([["a"], []], False)
    assert as_batch((("a",),)) == ([("a",)], False)


def test_metadata_and_status(client: RecommenderClient) -> None:
    metadata = client.metadata()
    assert metadata.version == 1
    assert metadata.signatures["recommend"].inputs["history"].shape == (-1, HISTORY)
    assert metadata.signatures["recommend"].outputs["ad_ids"].dtype == "string"
    assert "__saved_model_init_op" not in metadata.signatures
    [state] = client.status()
    assert (state.version, state.state, state.error) == (1, "AVAILABLE", "")


def test_errors_by_kind(shared: ModelServer) -> None:
    with RecommenderClient(f"127.0.0.1:{shared.port}", "other") as client:
        with pytest.raises(ModelNotFoundError, match=r"Latest\(other\)") as caught:
            client.recommend(["ad01"])
        assert caught.value.code == grpc.StatusCode.NOT_FOUND
        with pytest.raises(TimeoutError, match=r"other at .* is not available after 0\.2 s"):
            client.wait_until_available(0.2)
    with RecommenderClient("127.0.0.1:1", timeout=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            client.recommend(["ad01"])
        assert 0.3 < time.monotonic() - begun < 3
    with (
        RecommenderClient(f"127.0.0.1:{shared.port}", timeout=0.001) as client,
        pytest.raises((RequestTimeoutError, ServerUnavailableError)),
    ):
        client.similar_to_embedding(np.ones([50_000, DIM]))
    with pytest.raises(ValueError, match="timeout is 0"):
        RecommenderClient("127.0.0.1:1", timeout=0)


def test_an_ad_that_is_not_raw_is_refused() -> None:
    with pytest.raises(TypeError, match="ad_id is 5: ids are strings"):
        ad_example({"ad_id": 5})
    with pytest.raises(TypeError, match="column 'title' holds"):
        ad_example({"title": {"en": "x"}})
    with pytest.raises(TypeError, match="column 'paused' holds True"):
        ad_example({"paused": True})
    with pytest.raises(ValueError, match="column 'text_embedding' holds NaN"):
        ad_example({"text_embedding": np.array([1.0, np.nan])})


def test_raw_example_kinds() -> None:
    serialized = ad_example(
        {
            "ad_id": "a",
            "title": "ü",
            "category_path": ("Root", "Leaf"),
            "price": np.float64(2.5),
            "clicks": 3,
            "text_embedding": np.array([0.5, 1.5], np.float32),
            "timestamp": 1_700_000_000,
            "summary": None,
        }
    )
    features = tf.train.Example.FromString(serialized).features.feature
    assert "summary" not in features
    assert features["title"].bytes_list.value == ["ü".encode()]
    assert features["category_path"].bytes_list.value == [b"Root", b"Leaf"]
    assert features["price"].float_list.value == [2.5]
    assert features["clicks"].float_list.value == [3.0]
    assert features["text_embedding"].float_list.value == [0.5, 1.5]
    assert features["timestamp"].int64_list.value == [1_700_000_000]


def test_retries_until_a_late_server_is_up(toys: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(toys[1], tmp_path / "1")
    with ModelServer("sid_tfx", tmp_path, settle_seconds=0) as first:
        port = first.port
    late = ModelServer("sid_tfx", tmp_path, port, settle_seconds=0)
    timer = threading.Timer(0.7, late.start)
    timer.start()
    try:
        with RecommenderClient(f"127.0.0.1:{port}", timeout=20) as client:
            assert client.status() is not None
            client.wait_until_available(20)
            assert len(client.recommend(["ad01"])) == K
    finally:
        timer.join()
        late.stop()


def test_a_new_version_with_other_shapes_is_learnt(
    toys: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "models"
    shutil.copytree(toys[1], base / "1")
    with (
        ModelServer("sid_tfx", base, poll_seconds=0.02, settle_seconds=0) as server,
        RecommenderClient(f"127.0.0.1:{server.port}") as client,
    ):
        server.wait_until_available(30)
        client.recommend(["ad01"])
        monkeypatch.setattr("tests.serving.toy_servable.HISTORY", HISTORY + 2)
        save_toy(tmp_path / "staged", tmp_path / "scratch", 200.0).rename(base / "2")
        deadline = time.monotonic() + 20
        while client.wait_until_available(20) != 2:
            assert time.monotonic() < deadline
        assert client.recommend(["ad01"]).model_version == 2
        assert client.metadata().signatures["recommend"].inputs["history"].shape == (-1, 7)


def test_a_servable_without_the_signature_says_which_it_has(tmp_path: Path) -> None:
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "ad_ids")])
        def answer(self, ad_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"ad_ids": ad_ids}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures={"only": other.answer})
    with (
        ModelServer("sid_tfx", tmp_path, settle_seconds=0) as server,
        RecommenderClient(f"127.0.0.1:{server.port}") as client,
    ):
        server.wait_until_available(30)
        with pytest.raises(InvalidRequestError, match=r"no signature 'recommend' .* \['only'\]"):
            client.recommend(["ad01"])


def test_importing_the_client_pulls_in_no_server_and_no_model_code() -> None:
    code = "import sys, serving.client; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout.split()
    heavy = {"serving.server", "serving.servable", "sid_tfx", "tfx", "apache_beam", "scann"}
    assert not heavy & set(loaded)
    assert len(AD_IDS) == ADS
