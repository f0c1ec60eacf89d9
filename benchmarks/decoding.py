"""Constrained decoding: what a catalogue's size costs in latency, build time and bytes."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from rich.console import Console

from benchmarks import common, generated
from sid_tfx.decoder import SidDecoder
from sid_tfx.decoding import PrefixTrie
from sid_tfx.recommender import SidRecommender

LIMIT_BYTES_PER_AD = 40
LIMIT_GROWTH = 1.5
SUBJECT = "sid_decoder"
_REQUESTS = 16


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A decoder over one catalogue, and what its trie takes."""

    size: int
    decoder: SidDecoder
    trie_build_seconds: float

    def trie_figures(self) -> common.Record:
        """Seconds to build it and bytes per ad."""
        bytes_per_ad = self.decoder.trie.nbytes / self.size
        return {
            "trie_build_seconds": round(self.trie_build_seconds, 4),
            "bytes_per_ad": round(bytes_per_ad, 2),
            "share_of_byte_limit": round(bytes_per_ad / LIMIT_BYTES_PER_AD, 3),
        }


def candidate(size: int, levels: int, codebook_size: int, seed: int) -> Candidate:
    """A decoder over generated ads. The model is untrained: weights change no shape and no op."""
    catalog = generated.catalog(size, levels, codebook_size, seed=seed)
    codes, sizes = catalog.full_codes, catalog.level_sizes
    # The first trie of a process also pays for TensorFlow's start.
    PrefixTrie.build(codes[:1], sizes)
    begin = time.perf_counter()
    PrefixTrie.build(codes, sizes)
    seconds = time.perf_counter() - begin
    # A trained vector per ad changes no op of decoding and would be most of the memory.
    recommender = SidRecommender.for_catalog(catalog, id_embedding=False, seed=seed)
    return Candidate(size, SidDecoder(recommender), seconds)


def request(
    decoder: SidDecoder, beam: int, batch: int, history_length: int, k: int, seed: int
) -> Callable[[], np.ndarray]:
    """A call of `recommend` at this beam and batch, for other histories every time."""

    @tf.function(input_signature=[tf.TensorSpec([batch, history_length], tf.int32)])
    def recommend(rows: tf.Tensor) -> tf.Tensor:
        # Read when the graph is made: one decoder, whose ad vectors are large, does for all beams.
        decoder.beam_size = beam
        return decoder.recommend(rows, k).rows

    ads = decoder.trie.num_leaves
    rows = generated.histories(ads, batch * _REQUESTS, history_length, seed)
    turns = itertools.cycle([tf.constant(part) for part in np.split(rows, _REQUESTS)])
    return lambda: recommend(next(turns)).numpy()


def measure(
    candidates: Sequence[Candidate], beam: int, batch: int, history_length: int, k: int,
    repeats: int, seed: int,
) -> list[common.Record]:  # fmt: skip
    """A record per catalogue at one beam and batch, the first catalogue being the yardstick."""
    calls = {
        candidate.size: request(candidate.decoder, beam, batch, history_length, k, seed)
        for candidate in candidates
    }
    timings = common.alternate(calls, repeats)
    medians = {size: float(np.median(found)) for size, found in timings.items()}
    return [
        {
            "subject": SUBJECT,
            "beam": beam,
            "batch": batch,
            "catalogue_size": candidate.size,
            "median_ms": round(medians[candidate.size], 3),
            "p95_ms": common.percentiles(timings[candidate.size])["p95_ms"],
            "median_ms_per_user": round(medians[candidate.size] / batch, 3),
            "ratio_to_smallest_catalogue": round(
                medians[candidate.size] / medians[candidates[0].size], 3
            ),
            **candidate.trie_figures(),
        }
        for candidate in candidates
    ]


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
    candidates = []
    for size in sorted(set(sizes)):
        with console.status(f"{size:,} ads: catalogue, trie and model"):
            candidates.append(candidate(size, levels, codebook_size, seed))
    records: list[common.Record] = []
    for beam, batch in itertools.product(beams, batches):
        with console.status(f"beam {beam}, batch {batch}"):
            records += measure(candidates, beam, batch, history_length, k, repeats, seed)
    shape = {"levels": levels, "codebook_size": codebook_size, "k": k}
    records = [{**record, **shape, "history_length": history_length} for record in records]
    _print(console, records)
    common.write_records(records, found, json_path)


def _print(console: Console, records: list[common.Record]) -> None:
    columns = ["beam", "batch", "catalogue_size", "median_ms", "p95_ms", "median_ms_per_user"]
    columns += ["ratio_to_smallest_catalogue", "trie_build_seconds", "bytes_per_ad"]
    columns += ["share_of_byte_limit"]
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
