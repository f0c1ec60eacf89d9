"""The pushed servable on held-out users, beside baselines, under one protocol."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, ConfigError
from pipeline.run import Summary, serving_directory
from pipeline.showcase import model_server
from serving.client import RecommenderClient
from serving.version_dirs import list_versions
from sid_tfx.baselines import ItemKnn, Popularity
from sid_tfx.bundle import load_bundle, read_metadata
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.catalog_rows import evaluation_set, flat_sequences
from sid_tfx.datasets.records import read_sequences
from sid_tfx.datasets.sequences import EvaluationSet, Sequences
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import (
    GenerativeRecommender,
    Recommender,
    Result,
    evaluate,
    full_record,
    paired_bootstrap,
)
from sid_tfx.file_list import MANIFEST_FILE

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
        inputs: What the users did, where the servable reads more of it than the ads; None asks
            with the ads alone.
    """

    def __init__(
        self,
        client: RecommenderClient,
        catalog: SidCatalog,
        mode: str,
        inputs: Sequences | None = None,
    ):
        self._client = client
        self._catalog = catalog
        self._mode = mode
        self._inputs = inputs

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """Sends histories in batches; see `sid_tfx.evaluation.Recommender`."""
        found = np.full((len(histories), k), -1, np.int32)
        context = {} if self._inputs is None else newest_columns(self._inputs, histories.shape[1])
        for start in range(0, len(histories), _BATCH):
            users = slice(start, start + _BATCH)
            batch = ad_histories(histories[users], self._catalog)
            rules: dict[str, Any] = {"k": k, "filter_seen": filter_seen, "mode": self._mode}
            if context:
                beside: dict[str, Any] = {name: values[users] for name, values in context.items()}
                answers = self._client.recommend_in_context(batch, **beside, **rules)
            else:
                answers = self._client.recommend_filtered(batch, **rules)
            for row, answer in enumerate(answers, start=start):
                found[row, : len(answer)] = self._catalog.rows(answer.ad_ids)
        return found


def ad_histories(histories: np.ndarray, catalog: SidCatalog) -> list[list[str]]:
    """Turns int32 `(U, T)` of row + 1 into lists of ad ids."""
    return [catalog.ad_ids[row[row > 0] - 1].tolist() for row in histories]


def newest_columns(inputs: Sequences, length: int) -> dict[str, list[np.ndarray]]:
    """What is known of each user's newest `length` events: column -> an array per user."""
    ends = inputs.offsets[1:]
    newest = inputs.ranges(np.maximum(inputs.offsets[:-1], ends - length), ends)
    columns = {
        "timestamps": newest.timestamps,
        "events": newest.events,
        "weights": newest.weights,
    }
    return {
        name: [
            # Ads that the catalogue lacks are not in the history either.
            user[rows >= 0]
            for user, rows in zip(
                np.split(values, newest.offsets[1:-1]),
                np.split(newest.rows, newest.offsets[1:-1]),
                strict=True,
            )
        ]
        for name, values in columns.items()
        if values is not None
    }


def evaluate_servable(
    config: Config, console: Console, *, through: str, users: int = 0
) -> list[Record]:
    """Ranks all ads for the test users of the last run.

    Every method gets the newest `servable.max_history` ads of a history, which is all that the
    servable reads, and returns `servable.max_k`.

    Args:
        config: The configuration of that run.
        console: Gets the table.
        through: `"grpc"` asks a model server on the portable servable that this run pushed;
            `"process"` the recommender in this process.
        users: Test users, spread evenly; 0 takes all.

    Returns:
        Flat records: one per method, mode, filter and level, with intervals and slices (see
        `full_record`); one per filter and pair of servable and baseline, with `first`, `second`,
        `metric`, `difference`, `low` and `high`; and one of latencies.

    Raises:
        ConfigError: There is no run, or none with test users; or, with `"grpc"`, that run pushed
            nothing or what is served is another one's.
    """
    try:
        summary = Summary.load(config.home)
    except FileNotFoundError:
        raise ConfigError(f"{config.home} has no run; `python pipeline.py run` first") from None
    if through == "grpc" and not summary.pushed:
        said = f": {'; '.join(summary.refusals)}" if summary.refusals else ""
        raise ConfigError(
            f"the last run of {config.home} pushed nothing{said}; push with `python pipeline.py "
            "run`, or measure what it trained with --through process"
        )
    catalog = SidCatalog.load(summary.artifacts["SidAssigner.catalog"])
    sequences = summary.artifacts["InteractionBuilder.sequences"]
    train = flat_sequences(read_sequences(f"{sequences}/Split-train/*"), catalog)
    test = evaluation_set(read_sequences(f"{sequences}/Split-test/*"), catalog)
    test = test.sample(users or len(test))
    if not len(test):
        raise ConfigError(
            "the last run has no test users: nobody has the events that "
            f"data.split={config.data.split} judges by"
        )

    k, max_history = config.servable.max_k, config.servable.max_history
    popularity = train.popularity(len(catalog))
    results: list[Result] = []
    records: list[Record] = []

    def measure(
        name: str, mode: str, method: Recommender, asked: EvaluationSet, **more: Any
    ) -> None:
        for filtered in (False, True):
            begin = time.perf_counter()
            result = evaluate(name, method, asked, catalog, filtered, mode, k, max_history)
            seconds = round(time.perf_counter() - begin, 2)
            results.append(result)
            for level in ("item", "sid"):
                record = full_record(result, level, test, popularity)
                record |= {"split": config.data.split, "seed": config.seed, **more}
                records.append({**record, "evaluate_seconds": seconds})

    baselines: dict[str, Callable[..., Recommender]] = {
        "popularity": Popularity,
        "item_knn": ItemKnn,
    }
    metadata = read_metadata(f"{summary.recommender}/Format-Serving")
    # A refreshed recommender was not trained.
    trained = {"train_seconds": round(metadata.get("train_seconds", 0.0), 2)}
    # Served first: it is what may be refused.
    with _served(config, summary, catalog, through, test) as (methods, asked, client):
        for name, make in baselines.items():
            begin = time.perf_counter()
            method = make(train, len(catalog))
            seconds = round(time.perf_counter() - begin, 2)
            measure(name, "", method, test, through="process", train_seconds=seconds)
        for mode, method in methods.items():
            measure("servable", mode, method, asked, through=through, **trained)
        histories = ad_histories(test.histories(max_history), catalog)
        latency = [_latency(client, histories)] if client else []
    records += [*_differences(results), *latency]
    _print(console, records)
    return records


def _differences(results: list[Result]) -> list[Record]:
    """The servable against every baseline, same filter, same users."""
    return [
        {
            "first": f"{first.method} {first.mode}",
            "second": second.method,
            "filtered": first.filtered,
            "metric": metric,
            **paired_bootstrap(first, second, metric),
        }
        for first in results
        for second in results
        if first.method == "servable" != second.method and first.filtered == second.filtered
        for metric in ("recall@10", "ndcg@10")
    ]


@contextlib.contextmanager
def _served(
    config: Config, summary: Summary, catalog: SidCatalog, through: str, test: EvaluationSet
) -> Iterator[tuple[dict[str, Recommender], EvaluationSet, RecommenderClient | None]]:
    """By mode what ranks, the users as it reads them, and the server's client."""
    if through == "process":
        model, _ = load_bundle(f"{summary.recommender}/Format-Serving")
        decoder = SidDecoder(model, config.servable.beam_size)
        methods: dict[str, Recommender] = {
            mode: GenerativeRecommender(decoder, mode) for mode in MODES
        }
        yield methods, test.in_context(model.context), None
        return
    base = serving_directory(config, "portable")
    if not list_versions(base):
        raise ConfigError(f"{base} has no version; `python pipeline.py run` pushes one again")
    with (
        model_server(base, config.home / "server.log") as target,
        RecommenderClient(target, timeout=120) as client,
    ):
        served_model = client.metadata()
        _check_served(base / str(served_model.version), catalog, config)
        reads_context = "recommend_in_context" in served_model.signatures
        inputs = test.inputs if reads_context else None
        served: dict[str, Recommender] = {
            mode: ServedRecommender(client, catalog, mode, inputs) for mode in MODES
        }
        yield served, test, client


def _check_served(version: Path, catalog: SidCatalog, config: Config) -> None:
    """Refuses a version of another catalogue than the one whose users and ads are measured."""
    served = json.loads((version / MANIFEST_FILE).read_text())["fingerprints"]["catalog"]
    if served != catalog.fingerprint:
        raise ConfigError(
            f"{version} is what is served, and has catalogue {served}; the last run of "
            f"{config.home} made {catalog.fingerprint}. Push that one again with the "
            "command that made it, `python pipeline.py run` or `refresh`, or measure it with "
            "--through process"
        )


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
        "through": "grpc",
        "measure": "recommend, one request at a time",
        "requests": _LATENCY_REQUESTS,
        "median_ms": round(float(median), 2),
        "p95_ms": round(float(p95), 2),
    }


def _print(console: Console, records: list[Record]) -> None:
    table = Table(title="Test users, all ads ranked, item level", title_justify="left")
    columns = (
        "method", "mode", "filtered", "users", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr",
        "coverage@10", "popularity_bias@10",
    )  # fmt: skip
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
        if record.get("metric") == "ndcg@10":
            console.print(
                f"N@10 of {record['first']} minus {record['second']}, "
                f"{'filtered' if record['filtered'] else 'plain'}: {record['difference']:+.4f}, "
                f"95% interval {record['low']:+.4f} to {record['high']:+.4f}",
                highlight=False,
            )
        if "median_ms" in record:
            console.print(
                f"{record['measure']} over gRPC: median {record['median_ms']} ms, "
                f"p95 {record['p95_ms']} ms",
                highlight=False,
            )
