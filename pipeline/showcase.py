"""Recommendations for people: a server's answers over gRPC, printed with titles."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import portpicker
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, ConfigError
from pipeline.run import Summary, serving_directory
from serving.client import RecommenderClient
from serving.client_errors import RecommenderError, ServerUnavailableError
from serving.results import AdList
from sid_tfx.datasets.records import read_sequences

_START_SECONDS = 120.0
_SHOWN_HISTORY = 3
_CONTEXT = ("timestamps", "events", "weights")


def show_recommendations(config: Config, console: Console, users: int = 3, k: int = 5) -> None:
    """Starts a model server on what was pushed and prints what it recommends to test users."""
    with model_server(serving_directory(config, "portable"), config.home / "server.log") as target:
        console.print(f"\nmodel server on {target} (gRPC, TF Serving's API)", highlight=False)
        for user in range(users):
            query_server(config, console, target, history=[], user=user, k=k)


@contextlib.contextmanager
def model_server(base: Path, log: Path) -> Iterator[str]:
    """Runs `python -m serving` on a folder of versions; yields its target once it serves."""
    port = portpicker.pick_unused_port()
    target = f"localhost:{port}"
    command = [sys.executable, "-m", "serving", "--model_base_path", str(base)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--host", "localhost"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            with RecommenderClient(target) as client:
                _wait(client, process, log)
            yield target
        finally:
            process.terminate()
            process.wait()


def _wait(client: RecommenderClient, process: subprocess.Popen, log: Path) -> None:
    """Waits for AVAILABLE, but not for a server that has already died."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.wait_until_available(timeout=5)
            return
        except Exception as error:
            if process.poll() is not None:
                raise RuntimeError(f"the model server ended; see {log}") from error
            if time.monotonic() > deadline:
                raise


def query_server(
    config: Config,
    console: Console,
    target: str,
    history: Sequence[str],
    user: int,
    k: int,
    mode: str = "generative",
    filter_seen: bool = False,
    context: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Asks for one history, or for the n-th test user's, and prints ads with their titles.

    Args:
        config: Of the run whose data the titles and users are from.
        console: Gets the answer.
        target: `host:port` of the server.
        history: Ad ids, oldest first; empty for a test user's.
        user: Which test user.
        k: Ads asked for.
        mode: `"generative"` or `"hybrid"`.
        filter_seen: Whether the ads of the history are left out.
        context: `timestamps`, `events` and `weights` of the history, those that are known. A test
            user's are taken from the run.

    Raises:
        ConfigError: Nothing ran under this configuration, or it has no such user; the context
            does not fit the history, or the servable reads none.
    """
    try:
        summary = Summary.load(config.home)
    except FileNotFoundError:
        raise ConfigError(f"{config.home} has no run; `python pipeline.py run` first") from None
    name = "given history"
    columns = dict(context or {})
    if not history:
        sequences = read_sequences(
            f"{summary.artifacts['InteractionBuilder.sequences']}/Split-test/*"
        )
        if not 0 <= user < len(sequences.histories):
            raise ConfigError(f"--user must be in [0, {len(sequences.histories)}), got {user}")
        history = sequences.histories[user].tolist()
        columns = {column: getattr(sequences, column)[user].tolist() for column in _CONTEXT}
        name = f"user {sequences.user_ids[user]}"
    try:
        answer, milliseconds = _ask(
            target, history, columns, bool(context), k=k, mode=mode, filter_seen=filter_seen
        )
    except ServerUnavailableError as error:
        raise ConfigError(
            f"{error}; start a server with `python pipeline.py serve`, or name another with "
            "--target"
        ) from error
    except (RecommenderError, TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    shown = list(history[-_SHOWN_HISTORY:])
    titles = read_titles(summary.artifacts["AdsGen.examples"], {*shown, *answer.ad_ids})
    console.print(f"\n[bold]{name}[/bold], newest of {len(history)} ads seen:", highlight=False)
    for ad in shown:
        console.print(f"  {ad}  {titles.get(ad, '')}", highlight=False, soft_wrap=True)
    table = Table("rank", "ad", "semantic ID", "score", "title", box=None)
    for rank, scored in enumerate(answer.ads, start=1):
        sid = "-".join(str(code) for code in scored.sid)
        title = titles.get(scored.ad_id, "")
        table.add_row(str(rank), scored.ad_id, sid, f"{scored.score:.3f}", title)
    console.print(table)
    console.print(f"answered in {milliseconds:.1f} ms", highlight=False)


def read_titles(examples_uri: str, wanted: set[str]) -> dict[str, str]:
    """Reads the titles of some ads from AdsGen's output; an ad without one is absent."""
    spec = {
        "ad_id": tf.io.FixedLenFeature([], tf.string),
        "title": tf.io.FixedLenFeature([], tf.string, default_value=""),
    }
    files = sorted(tf.io.gfile.glob(f"{examples_uri}/Split-all/*"))
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(4096)
    found = {}
    for batch in dataset.map(lambda records: tf.io.parse_example(records, spec)):
        for ad, title in zip(batch["ad_id"].numpy(), batch["title"].numpy(), strict=True):
            if ad.decode() in wanted:
                found[ad.decode()] = title.decode()
    return found


def _ask(
    target: str,
    history: Sequence[str],
    context: Mapping[str, Sequence[Any]],
    must_read: bool,
    **rules: Any,
) -> tuple[AdList, float]:
    """Asks for one history, with its context where the servable reads one; answer, milliseconds.

    Raises:
        ConfigError: The servable reads none, and `must_read`.
    """
    with RecommenderClient(target) as client:
        if "recommend_in_context" not in client.metadata().signatures:
            if must_read:
                raise ConfigError(
                    f"the servable on {target} reads nothing of a history but its ads; leave "
                    f"{', '.join(context)} out, or train it with recommender.context"
                )
            context = {}
        begin = time.perf_counter()
        if context:
            answer = client.recommend_in_context(
                history,
                timestamps=context.get("timestamps"),
                events=context.get("events"),
                weights=context.get("weights"),
                **rules,
            )
        else:
            answer = client.recommend_filtered(history, **rules)
        return answer, 1000 * (time.perf_counter() - begin)
