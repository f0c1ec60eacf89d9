"""Constrained decoding: what a catalogue's size costs in latency, build time and bytes."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from rich.console import Console

from benchmarks import common, generated
from sid_tfx.catalog import SidCatalog
from sid_tfx.decoder import SidDecoder
from sid_tfx.decoding import PrefixTrie
from sid_tfx.recommender import SidRecommender

LIMIT_BYTES_PER_AD = 40
LIMIT_GROWTH = 1.5
SUBJECT = "sid_decoder"


def build_trie(catalog: SidCatalog) -> tuple[PrefixTrie, float]:
    """The trie of a catalogue, and the seconds that it took."""
    codes = catalog.full_codes
    begin = time.perf_counter()
    trie = PrefixTrie.build(codes, catalog.level_sizes)
    return trie, time.perf_counter() - begin


def latencies(
    decoder: SidDecoder, batch: int, history_length: int, k: int, repeats: int, seed: int
) -> np.ndarray:
    """Milliseconds of `recommend`, float [repeats], each for other histories."""

    @tf.function(input_signature=[tf.TensorSpec([batch, history_length], tf.int32)])
    def recommend(rows: tf.Tensor) -> tf.Tensor:
        return decoder.recommend(rows, k).rows

    rows = generated.histories(decoder.trie.num_leaves, batch * 16, history_length, seed)
    requests = [tf.constant(part) for part in np.split(rows, 16)]
    turn = iter(range(repeats + 5))
    return common.milliseconds(
        lambda: recommend(requests[next(turn) % len(requests)]).numpy(), repeats, warm_up=5
    )


def measure(
    size: int, beams: tuple[int, ...], batches: tuple[int, ...], k: int, history_length: int,
    levels: int, codebook_size: int, repeats: int, seed: int,
) -> list[common.Record]:  # fmt: skip
    """Records of one catalogue, the model untrained: its weights change no shape or op."""
    catalog = generated.catalog(size, levels, codebook_size, seed=seed)
    trie, build_seconds = build_trie(catalog)
    figures = {
        "trie_build_seconds": round(build_seconds, 4),
        "trie_mb": round(trie.nbytes / 1e6, 3),
        "bytes_per_ad": round(trie.nbytes / size, 2),
        "share_of_byte_limit": round(trie.nbytes / size / LIMIT_BYTES_PER_AD, 3),
    }
    del trie
    # A trained vector per ad changes no op of decoding and would be most of the memory.
    recommender = SidRecommender.for_catalog(catalog, id_embedding=False, seed=seed)
    records = []
    for beam in beams:
        decoder = SidDecoder(recommender, beam_size=beam)
        for batch in batches:
            found = latencies(decoder, batch, history_length, k, repeats, seed)
            records.append(
                {
                    "subject": SUBJECT,
                    "beam": beam,
                    "batch": batch,
                    "catalogue_size": size,
                    "levels": levels,
                    "codebook_size": codebook_size,
                    "median_ms": round(float(np.median(found)), 3),
                    "p95_ms": common.percentiles(found)["p95_ms"],
                    "median_ms_per_user": round(float(np.median(found)) / batch, 3),
                    **figures,
                }
            )
    return records


def add_growth(records: list[common.Record]) -> None:
    """Adds `ratio_to_smallest_catalogue`: median latency at the same beam and batch."""
    smallest = min(record["catalogue_size"] for record in records)
    base = {
        (record["beam"], record["batch"]): record["median_ms"]
        for record in records
        if record["catalogue_size"] == smallest
    }
    for record in records:
        ratio = record["median_ms"] / base[record["beam"], record["batch"]]
        record["ratio_to_smallest_catalogue"] = round(ratio, 3)


@click.command(context_settings={"show_default": True})
@click.option(
    "--catalogue-size", "sizes", multiple=True, type=click.IntRange(min=1),
    default=(10_000, 100_000, 1_000_000), help="Generated ads; repeat for several.",
)  # fmt: skip
@click.option(
    "--beam", "beams", multiple=True, type=click.IntRange(min=1), default=(20, 50),
    help="Prefixes kept per level; repeat for several.",
)  # fmt: skip
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 64),
    help="Users per call; repeat for several.",
)  # fmt: skip
@click.option("--k", default=10, type=click.IntRange(min=1), help="Ads recommended.")
@click.option("--history-length", default=20, type=click.IntRange(min=1), help="Ads per user.")
@click.option("--levels", default=3, type=click.IntRange(min=1), help="Codes of a semantic ID.")
@click.option("--codebook-size", default=256, type=click.IntRange(min=2), help="Codes per level.")
@click.option("--repeats", default=50, type=click.IntRange(min=1), help="Timed calls.")
@click.option("--seed", default=0, help="Draws codes, weights and histories.")
@common.json_option
def main(
    sizes: tuple[int, ...], beams: tuple[int, ...], batches: tuple[int, ...], k: int,
    history_length: int, levels: int, codebook_size: int, repeats: int, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Latency of `SidDecoder.recommend` as the catalogue grows, and what its trie takes.

    The recommender has its default size. Histories are full.
    """
    console, found = common.console(), common.machine()
    common.print_machine(console, found)
    records: list[common.Record] = []
    for size in sorted(sizes):
        with console.status(f"{size:,} ads"):
            records += measure(
                size, beams, batches, k, history_length, levels, codebook_size, repeats, seed
            )
        gc.collect()
    add_growth(records)
    _print(console, records)
    common.write_records(records, found, json_path)


def _print(console: Console, records: list[common.Record]) -> None:
    columns = ("catalogue_size", "beam", "batch", "median_ms", "p95_ms", "median_ms_per_user")
    columns += ("ratio_to_smallest_catalogue", "trie_build_seconds", "bytes_per_ad")
    columns += ("share_of_byte_limit",)
    title = (
        f"SidDecoder.recommend (limits: {LIMIT_BYTES_PER_AD} trie bytes an ad, latency "
        f"{LIMIT_GROWTH:g} times that of the smallest catalogue)"
    )
    common.print_table(console, title, records, columns)
    heaviest = max(record["bytes_per_ad"] for record in records)
    slowest = max(record["ratio_to_smallest_catalogue"] for record in records)
    console.print(
        f"Trie: at most {heaviest:.1f} bytes an ad, {heaviest / LIMIT_BYTES_PER_AD:.2f} of the "
        f"limit of {LIMIT_BYTES_PER_AD}: {common.verdict(heaviest, LIMIT_BYTES_PER_AD)}"
    )
    console.print(
        f"Latency: at most {slowest:.2f} times that of the smallest catalogue, limit "
        f"{LIMIT_GROWTH:g}: {common.verdict(slowest, LIMIT_GROWTH)}"
    )


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.decoding")
