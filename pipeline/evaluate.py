"""The pushed servable on held-out users, beside baselines, under one protocol."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, ConfigError
from pipeline.run import Summary, serving_directory
from pipeline.showcase import model_server
from pipeline.splits import evaluation_set, flat_sequences
from serving.client import RecommenderClient
from sid_tfx.baselines import ItemKnn, Popularity
from sid_tfx.bundle import load_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.records import read_sequences
from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender, Recommender, Result, evaluate

MODES = ("generative", "hybrid")
_BATCH = 256
_LATENCY_REQUESTS = 500
Record = dict[str, Any]


class ServedRecommender:
    """A model server as the evaluation harness wants it.

    Args:
        client: Connected to the server.
        catalog: Maps the server's ad ids to rows.
        mode: `"generative"` or `"hybrid"`.
    """

    def __init__(self, client: RecommenderClient, catalog: SidCatalog, mode: str):
        self._client = client
        self._catalog = catalog
        self._mode = mode

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """Sends histories in batches; see `sid_tfx.evaluation.Recommender`."""
        found = np.full((len(histories), k), -1, np.int32)
        for start in range(0, len(histories), _BATCH):
            batch = ad_histories(histories[start : start + _BATCH], self._catalog)
            answers = self._client.recommend_filtered(
                batch, k=k, filter_seen=filter_seen, mode=self._mode
            )
            for row, answer in enumerate(answers, start=start):
                found[row, : len(answer)] = self._catalog.rows(answer.ad_ids)
        return found


def ad_histories(histories: np.ndarray, catalog: SidCatalog) -> list[list[str]]:
    """Turns int32 `(U, T)` of row + 1 into lists of ad ids."""
    return [catalog.ad_ids[row[row > 0] - 1].tolist() for row in histories]


def evaluate_servable(
    config: Config, console: Console, *, through: str, users: int = 0
) -> list[Record]:
    """Ranks all ads for the test users of the last run.

    Args:
        config: The configuration of that run.
        console: Gets the table.
        through: `"grpc"` asks a model server on the pushed portable servable; `"process"` the
            recommender in this process.
        users: Test users, spread evenly; 0 takes all.

    Returns:
        Flat records: one per method, mode, filter and level, and one of latencies.

    Raises:
        ConfigError: Nothing was pushed under this configuration.
    """
    try:
        summary = Summary.load(config.home)
    except FileNotFoundError:
        raise ConfigError(f"{config.home} has no run; `python pipeline.py run` first") from None
    catalog = SidCatalog.load(summary.artifacts["SidAssigner.catalog"])
    sequences = summary.artifacts["InteractionBuilder.sequences"]
    train = flat_sequences(read_sequences(f"{sequences}/Split-train/*"), catalog)
    test = evaluation_set(read_sequences(f"{sequences}/Split-test/*"), catalog)
    test = test.sample(users or len(test))
    if not len(test):
        raise ConfigError("the last run has no test users: nobody has three events or more")

    baselines: dict[str, Recommender] = {
        "popularity": Popularity(train, len(catalog)),
        "item_knn": ItemKnn(train, len(catalog)),
    }
    k = config.servable.max_k
    records: list[Record] = []
    for name, method in baselines.items():
        records += _records(name, "", method, test, catalog, k)
    with _served(config, summary, catalog, through) as (methods, client):
        for mode, method in methods.items():
            records += _records("servable", mode, method, test, catalog, k)
        if client is not None:
            records.append(_latency(client, ad_histories(test.histories(), catalog)))
    for record in records:
        record["through"] = through if record["method"] == "servable" else "process"
    _print(console, records)
    return records


def write_records(records: Sequence[Record], path: Path) -> None:
    """Writes flat records as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(records), indent=2) + "\n")


@contextlib.contextmanager
def _served(
    config: Config, summary: Summary, catalog: SidCatalog, through: str
) -> Iterator[tuple[dict[str, Recommender], RecommenderClient | None]]:
    if through == "process":
        model, _ = load_bundle(f"{summary.recommender}/Format-Serving")
        decoder = SidDecoder(model, config.servable.beam_size)
        yield {mode: GenerativeRecommender(decoder, mode) for mode in MODES}, None
        return
    base = serving_directory(config, "portable")
    with (
        model_server(base, config.home / "server.log") as target,
        RecommenderClient(target, timeout=120) as client,
    ):
        yield {mode: ServedRecommender(client, catalog, mode) for mode in MODES}, client


def _records(
    name: str,
    mode: str,
    method: Recommender,
    test: EvaluationSet,
    catalog: SidCatalog,
    k: int,
) -> list[Record]:
    records = []
    for filtered in (False, True):
        begin = time.perf_counter()
        result: Result = evaluate(name, method, test, catalog, filtered, mode, k)
        seconds = time.perf_counter() - begin
        for level in ("item", "sid"):
            records.append({**result.record(level), "evaluate_seconds": round(seconds, 2)})
    return records


def _latency(client: RecommenderClient, histories: list[list[str]]) -> Record:
    for history in histories[:20]:
        client.recommend(history)
    milliseconds = []
    for request in range(_LATENCY_REQUESTS):
        history = histories[request % len(histories)]
        begin = time.perf_counter()
        client.recommend(history)
        milliseconds.append(1000 * (time.perf_counter() - begin))
    median, p95 = np.percentile(milliseconds, [50, 95])
    return {
        "method": "servable",
        "measure": "recommend, one request at a time",
        "requests": _LATENCY_REQUESTS,
        "median_ms": round(float(median), 2),
        "p95_ms": round(float(p95), 2),
    }


def _print(console: Console, records: list[Record]) -> None:
    table = Table(title="Test users, all ads ranked, item level", title_justify="left")
    columns = ("method", "mode", "filtered", "users", "recall@5", "recall@10", "ndcg@5", "ndcg@10")
    for column in columns:
        table.add_column(column, justify="right" if "@" in column or column == "users" else "left")
    for record in records:
        if record.get("level") == "item":
            table.add_row(
                *(
                    f"{value:.4f}" if isinstance(value, float) else str(value)
                    for value in (record[column] for column in columns)
                )
            )
    console.print(table)
    for record in records:
        if "median_ms" in record:
            console.print(
                f"{record['measure']} over gRPC: median {record['median_ms']} ms, "
                f"p95 {record['p95_ms']} ms",
                highlight=False,
            )
