"""Hybrid mode's dense candidates: every ad scored, or an index asked."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console

from benchmarks import common, generated
from benchmarks.served import Call, served
from sid_tfx.decoder import DENSE_CANDIDATES, SidDecoder
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import build_index

ALL_ADS = "all_ads"
FLAVOURS = {"partitioned": "portable", "scann": "scann"}
_CONTENT_SIZE = 64
_QUERIES = 1024


def generate(ads: int, seed: int, successors: int = 0) -> tuple[SidRecommender, np.ndarray]:
    """A recommender over ads whose vectors lie in clusters, and queries float32 [Q, hidden_size].

    Its weights are random, which changes no op. Histories under random weights end in states that
    lie nowhere near the ads, so the queries for tuning and recall are the vectors of ads that were
    drawn with the others and left out: a trained dense head puts a state near the ads to come.
    """
    content = generated.clustered_vectors(ads + _QUERIES, _CONTENT_SIZE, seed)
    catalog = generated.catalog(ads, seed=seed, embeddings=content[:ads])
    # Trained id vectors would follow what users do together; random ones would blur the clusters.
    recommender = SidRecommender.for_catalog(
        catalog, generated.successors(ads, successors, seed), id_embedding=False, seed=seed
    )
    scale = float(np.linalg.norm(keras.ops.convert_to_numpy(recommender.ad_content[1])))
    left_out = recommender.dense_head.vectors(content[ads:] * scale)
    return recommender, keras.ops.convert_to_numpy(left_out)


def build(
    recommender: SidRecommender, queries: np.ndarray, recall: float, max_k: int, seed: int
) -> tuple[dict[str, SidDecoder], dict[str, common.Record]]:
    """A decoder for each subject, and what is known of its index."""
    vectors = keras.ops.convert_to_numpy(recommender.item_vectors())
    begin = time.perf_counter()
    selection = build_index(
        vectors,
        kind="approximate",
        k=DENSE_CANDIDATES,
        max_k=max_k,
        recall_target=recall,
        similarity="dot_product",
        queries=_QUERIES // 2,
        query_vectors=queries,
        seed=seed,
    )
    seconds = round(time.perf_counter() - begin, 1)
    decoders = {ALL_ADS: SidDecoder(recommender)}
    figures: dict[str, common.Record] = {ALL_ADS: {f"recall@{selection.k}": 1.0}}
    for kind, flavour in FLAVOURS.items():
        choice = selection.choices[flavour]
        decoders[kind] = SidDecoder(recommender, index=choice.index)
        figures[kind] = {
            f"recall@{selection.k}": round(choice.recall.mean, 4),
            "search_ms": round(choice.milliseconds, 4),
            # Of both indices together, as the pipeline's Composer tunes them.
            "tuning_seconds": seconds,
        }
    return decoders, figures


def measure(
    calls: Mapping[str, Mapping[tuple[int, int], Call]],
    ads: int,
    beam: int,
    batch: int,
    repeats: int,
) -> list[common.Record]:
    """A record per subject at one batch; they take turns, call by call."""
    turns = {subject: found[beam, batch] for subject, found in calls.items()}
    timings = common.alternate(turns, repeats)
    medians = {subject: float(np.median(found)) for subject, found in timings.items()}
    return [
        {
            "subject": subject,
            "ads": ads,
            "batch": batch,
            "median_ms": round(medians[subject], 3),
            "p95_ms": common.percentiles(found)["p95_ms"],
            "ratio_to_all_ads": round(medians[subject] / medians[ALL_ADS], 3),
        }
        for subject, found in timings.items()
    ]


@click.command(context_settings={"show_default": True})
@click.option(
    "--ads", "sizes", multiple=True, type=click.IntRange(min=100),
    default=(10_000, 100_000, 1_000_000), help="Generated ads; repeat for several.",
)  # fmt: skip
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 64),
    help="Users per call; repeat for several.",
)  # fmt: skip
@click.option("--k", default=20, type=click.IntRange(min=1), help="Ads recommended.")
@click.option("--beam", default=50, type=click.IntRange(min=1), help="Prefixes kept per level.")
@click.option("--history-length", default=20, type=click.IntRange(min=1), help="Ads per user.")
@click.option(
    "--exclusions", default=84, type=click.IntRange(min=0),
    help="Ads that a request may exclude: an index is built for as many more.",
)  # fmt: skip
@click.option(
    "--recall", default=0.95, type=click.FloatRange(0, 1, min_open=True),
    help="Recall of the dense candidates that an index is tuned to.",
)  # fmt: skip
@click.option(
    "--successors", default=32, type=click.IntRange(min=0),
    help="Ads remembered per ad that followed it, the third source of candidates; 0 for none.",
)  # fmt: skip
@click.option("--repeats", default=50, type=click.IntRange(min=1), help="Timed calls.")
@click.option("--seed", default=0, help="Draws codes, vectors, weights and histories.")
@common.json_option
def main(
    sizes: tuple[int, ...], batches: tuple[int, ...], k: int, beam: int, history_length: int,
    exclusions: int, recall: float, successors: int, repeats: int, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Latency of `SidDecoder.recommend` in hybrid mode: an index against scoring all ads.

    The recommender has its default size and random weights, the ads' vectors lie in clusters.
    """
    console, machine = common.console(), common.machine()
    common.print_machine(console, machine)
    records: list[common.Record] = []
    for ads in sorted(set(sizes)):
        with console.status(f"{ads:,} ads") as status:
            recommender, queries = generate(ads, seed, successors)
            status.update(f"{ads:,} ads: tuning the indices")
            max_k = DENSE_CANDIDATES + exclusions
            decoders, figures = build(recommender, queries, recall, max_k, seed)
            settings = [(beam, batch) for batch in batches]
            calls = {
                subject: served(decoder, settings, history_length, k, seed, "hybrid")
                for subject, decoder in decoders.items()
            }
            for batch in batches:
                status.update(f"{ads:,} ads: batch {batch}")
                found = measure(calls, ads, beam, batch, repeats)
                records += [{**record, **figures[record["subject"]]} for record in found]
    shape = {
        "k": k, "beam": beam, "history_length": history_length, "recall_target": recall,
        "successors": successors,
    }  # fmt: skip
    records = [{**record, **shape, "seed": seed} for record in records]
    _print(console, records)
    common.write_records(records, machine, json_path)


def _print(console: Console, records: list[common.Record]) -> None:
    columns = ["ads", "batch", "subject", "median_ms", "p95_ms", "ratio_to_all_ads"]
    columns += [f"recall@{DENSE_CANDIDATES}", "search_ms", "tuning_seconds"]
    title = "recommend in hybrid mode (ratio below 1: faster than scoring all ads)"
    common.print_table(console, title, records, columns)
    for (ads, batch), group in itertools.groupby(records, lambda r: (r["ads"], r["batch"])):
        best = min(group, key=lambda record: record["median_ms"])
        console.print(f"{ads:,} ads, batch {batch}: {best['subject']} is the fastest")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.dense_candidates")
