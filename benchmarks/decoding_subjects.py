"""What the decoding benchmark times: our decoder over a catalogue, and the T5s, as processes."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import common, generated
from benchmarks.peers import generation, harness
from benchmarks.served import REQUESTS, export
from sid_tfx.decoder import SidDecoder
from sid_tfx.decoding import PrefixTrie
from sid_tfx.recommender import SidRecommender

LIMIT_BYTES_PER_AD = 40
PEERS = ("hf_t5_tiger", "hf_t5_equal")
# Turns in which each number of threads is tried, after one that is not timed.
_TRIALS = 3
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# As serving/deploy runs a server, unless the caller's environment says otherwise.
_SERVED = {**harness.PASSIVE, _ONEDNN: os.environ.get(_ONEDNN, "0")}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What every call of a run has in common."""

    levels: int
    codebook_size: int
    history_length: int
    k: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A decoder over one catalogue, exported, and what its arrays take.

    Attributes:
        folder: holds the SavedModel and histories.
        ads: their number.
        sizes: Codes per level.
        parameters: Trained parameters of the recommender, the catalogue's tables left out.
        figures: Seconds to build the trie, bytes an ad of the trie and of the model's tables.
    """

    folder: Path
    ads: int
    sizes: tuple[int, ...]
    parameters: int
    figures: common.Record


class Subject:
    """One of those compared, in processes of its own: one for each number of threads in use."""

    def __init__(self, start: Callable[[int], harness.Worker]) -> None:
        self._start = start
        self._workers: dict[int, harness.Worker] = {}

    def run(self, task: str, threads: int) -> list[float]:
        """Milliseconds of a few calls; the process times itself, what its pipe costs is not its."""
        if threads not in self._workers:
            self._workers[threads] = self._start(threads)
        return self._workers[threads].run(task)["milliseconds"]

    def fastest(self, task: str, threads: Sequence[int]) -> int:
        """The number of threads whose calls take the least time."""
        if len(threads) == 1:
            return threads[0]
        found: dict[int, list[float]] = {count: [] for count in threads}
        for turn in range(1 + _TRIALS):
            for count in threads:
                milliseconds = self.run(task, count)
                # The first call traces, compiles and fills caches.
                found[count] += milliseconds if turn else []
        return min(found, key=lambda count: float(np.median(found[count])))

    @property
    def about(self) -> common.Record:
        """Its parameters and the version of its library."""
        return next(iter(self._workers.values())).about

    def close(self) -> None:
        """Ends its processes."""
        for worker in self._workers.values():
            worker.close()


def candidate(
    size: int, settings: Sequence[tuple[int, int]], shape: Shape, folder: Path, codes: bool = False
) -> Candidate:
    """A decoder over generated ads. The model is untrained: weights change no shape and no op.

    Args:
        codes: Whether to write the codes, too, which the peers read.
    """
    sids = generated.sids(size, shape.levels, shape.codebook_size, shape.seed)
    # The first trie of a process also pays for TensorFlow's start.
    PrefixTrie.build(sids.codes[:1], sids.sizes)
    begin = time.perf_counter()
    PrefixTrie.build(sids.codes, sids.sizes)
    seconds = time.perf_counter() - begin
    # A trained vector per ad changes no op of decoding and would be most of the memory.
    recommender = SidRecommender(
        num_ads=size,
        levels=shape.levels,
        codebook_size=shape.codebook_size,
        dedup_size=sids.sizes[-1],
        content_size=16,
        id_embedding=False,
        seed=shape.seed,
    )
    recommender.ad_codes.assign(np.pad(sids.codes, [(1, 0), (0, 0)]))
    decoder = SidDecoder(recommender, hybrid=False)
    export(decoder, folder / "servable", settings, shape.history_length, shape.k)
    users = max(batch for _, batch in settings) * REQUESTS
    np.save(
        folder / "histories.npy",
        generated.histories(size, users, shape.history_length, shape.seed),
    )
    if codes:
        np.save(folder / "codes.npy", sids.codes)
    weights = [variable for variable in recommender.variables if variable.trainable]
    return Candidate(
        folder,
        size,
        sids.sizes,
        sum(int(np.prod(weight.shape)) for weight in weights),
        _figures(decoder, size, seconds),
    )


def _figures(decoder: SidDecoder, size: int, trie_build_seconds: float) -> common.Record:
    bytes_per_ad = decoder.trie.nbytes / size
    model = decoder.recommender
    tables = [v.value for v in model.variables if v.shape[:1] == (size + 1,)]
    tables += [table.value for table in model.catalog_softmax.followers]
    table_bytes = sum(int(np.prod(table.shape)) * table.dtype.size for table in tables)
    return {
        "trie_build_seconds": round(trie_build_seconds, 4),
        "bytes_per_ad": round(bytes_per_ad, 2),
        "share_of_byte_limit": round(bytes_per_ad / LIMIT_BYTES_PER_AD, 3),
        "model_table_bytes_per_ad": round(table_bytes / size, 2),
    }


def own(found: Candidate, seed: int) -> Subject:
    """Our decoder over one catalogue."""

    def start(threads: int) -> harness.Worker:
        job = generation.Job(found.folder, found.sizes, None, found.parameters, threads, seed)
        job.save()
        return harness.Worker(Path(sys.executable), "benchmarks.peers.own_decoder", job, _SERVED)

    return Subject(start)


def peers(ours: Candidate, python: Path, seed: int) -> dict[str, Subject]:
    """The peers: a T5 of TIGER's size and one of as many parameters as ours."""
    tokens = 1 + sum(ours.sizes)
    sizes = (generation.TIGER, generation.of_parameters(ours.parameters, tokens))

    def starter(size: generation.T5Size) -> Callable[[int], harness.Worker]:
        def start(threads: int) -> harness.Worker:
            job = generation.Job(ours.folder, ours.sizes, size, ours.parameters, threads, seed)
            job.save()
            return harness.Worker(python, "benchmarks.peers.hf_t5", job, {})

        return start

    return {name: Subject(starter(size)) for name, size in zip(PEERS, sizes, strict=True)}
