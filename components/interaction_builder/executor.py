"""Builds user sequences and Swing pairs in Beam."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils

from components import quarantine
from components.artifacts import set_summary
from components.example_gen.executor import SPLIT
from components.interaction_builder.pairs import SwingPairs
from components.interaction_builder.sequences import Event, ordered_events, split_user
from components.quarantine import Rejection
from components.refusal import Refused
from sid_tfx.datasets.sequences import time_boundaries

SEQUENCE_SPLITS = ("train", "validation", "test")
PAIR_SPLITS = ("train",)


def parse_event(record: bytes) -> tuple[bytes, tuple[bytes, Event]]:
    """A raw event to `(ad id, (user id, event))`."""
    feature = tf.train.Example.FromString(record).features.feature
    ad_id = feature["ad_id"].bytes_list.value[0]
    event = (
        feature["timestamp"].int64_list.value[0],
        ad_id,
        b"".join(feature["event"].bytes_list.value[:1]),
        sum(feature["weight"].float_list.value[:1], 0.0),
    )
    return ad_id, (feature["user_id"].bytes_list.value[0], event)


def parse_ad_id(record: bytes) -> tuple[bytes, None]:
    """A raw ad to `(ad id, None)`."""
    feature = tf.train.Example.FromString(record).features.feature
    return feature["ad_id"].bytes_list.value[0], None


def known_events(element: tuple[bytes, dict[str, Iterable[Any]]], source: str) -> Iterator[Any]:
    """Passes on the events of an ad as `(user id, event)` if the catalogue has it."""
    ad_id, joined = element
    known = any(True for _ in joined["ads"])
    for user_id, event in joined["events"]:
        if known:
            yield user_id, event
            continue
        reason = (
            f"{ad_id.decode()!r} (user {user_id.decode()!r} at {event[0]}) is not among the ads; "
            "add the ad or drop its events"
        )
        yield beam.pvalue.TaggedOutput("rejected", Rejection(source, 0, "ad_id", reason))


class TimeQuantiles(beam.CombineFn):
    """Exact quantiles of timestamps, whatever the order they come in.

    Keeps how often each timestamp occurs. The result is the start of the validation and of the
    test window, by the library's `time_boundaries`.
    """

    def __init__(self, validation_share: float, test_share: float) -> None:
        super().__init__()
        self._shares = (validation_share, test_share)

    def create_accumulator(self) -> Counter[int]:
        """No timestamps."""
        return Counter()

    def add_input(self, accumulator: Counter[int], element: int) -> Counter[int]:
        """Adds one timestamp."""
        accumulator[element] += 1
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Counter[int]]) -> Counter[int]:
        """Adds up the counts."""
        merged: Counter[int] = Counter()
        for accumulator in accumulators:
            merged.update(accumulator)
        return merged

    def extract_output(self, accumulator: Counter[int]) -> tuple[int, int]:
        """The two boundaries, both 0 of no timestamps."""
        if not accumulator:
            return 0, 0
        times = np.fromiter(accumulator, np.int64, len(accumulator))
        counts = np.fromiter(accumulator.values(), np.int64, len(accumulator))
        order = np.argsort(times)
        return time_boundaries(times[order], counts[order], *self._shares)


def distinct_events(element: tuple[bytes, Iterable[Event]]) -> Iterator[Any]:
    """Sorts a user's events and drops repeats; tag `tally` has how many were kept and dropped."""
    user_id, given = element
    raw = list(given)
    events = ordered_events(raw)
    yield user_id, events
    for item in {"users": 1, "kept": len(events), "repeated": len(raw) - len(events)}.items():
        yield beam.pvalue.TaggedOutput("tally", item)


class CutUser(beam.DoFn):
    """`(user id, ordered events)` to sequences.

    Tags `validation`, `test`, `training_ads`, `tally`.
    """

    def __init__(self, split: str) -> None:
        self._split = split

    def process(
        self,
        element: tuple[bytes, list[Event]],
        boundaries: Any = None,
    ) -> Iterator[Any]:
        """Cuts one user's events."""
        user_id, events = element
        for name, sequence in split_user(user_id, events, self._split, boundaries).items():
            example = sequence.to_example()
            yield beam.pvalue.TaggedOutput("tally", (name, 1))
            if name == "train":
                yield example
                yield beam.pvalue.TaggedOutput("training_ads", (user_id, sequence.history))
            else:
                yield beam.pvalue.TaggedOutput(name, example)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Joins events with ads, cuts each user's events and mines pairs from the training part."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the Beam pipeline, then decides whether enough events came through.

        Raises:
            Refused: Too many events name unknown ads, or none names a known one.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        sequences = artifact_utils.get_single_instance(output_dict["sequences"])
        pairs = artifact_utils.get_single_instance(output_dict["pairs"])
        for artifact, splits in ((sequences, SEQUENCE_SPLITS), (pairs, PAIR_SPLITS)):
            artifact.split_names = artifact_utils.encode_split_names(list(splits))
            examples_utils.set_payload_format(artifact, example_gen_pb2.FORMAT_TF_EXAMPLE)
            examples_utils.set_file_format(artifact, "tfrecords_gzip")
        with self._make_beam_pipeline() as pipeline:
            self._build(pipeline, input_dict, sequences, pairs, exec_properties)
        self._conclude(sequences, pairs, exec_properties)

    def _build(
        self,
        pipeline: beam.Pipeline,
        input_dict: dict[str, list[types.Artifact]],
        sequences: types.Artifact,
        pairs: types.Artifact,
        exec_properties: dict[str, Any],
    ) -> None:
        split = exec_properties["split"]
        source = artifact_utils.get_split_uri(input_dict["events"], SPLIT)
        events = pipeline | "ReadEvents" >> _read(source) | "Event" >> beam.Map(parse_event)
        ads = (
            pipeline
            | "ReadAds" >> _read(artifact_utils.get_split_uri(input_dict["ads"], SPLIT))
            | "AdId" >> beam.Map(parse_ad_id)
        )
        joined = (
            {"ads": ads, "events": events}
            | "Join" >> beam.CoGroupByKey()
            | "Known" >> beam.FlatMap(known_events, source).with_outputs("rejected", main="events")
        )
        users = (
            joined.events
            | "ByUser" >> beam.GroupByKey()
            | "Distinct" >> beam.FlatMap(distinct_events).with_outputs("tally", main="events")
        )
        windows: tuple[Any, ...] = ()
        if split == "global_time":
            quantiles = TimeQuantiles(
                exec_properties["validation_share"], exec_properties["test_share"]
            )
            boundaries = (
                users.events
                | "Times" >> beam.FlatMap(lambda user: [event[0] for event in user[1]])
                | "Quantiles" >> beam.CombineGlobally(quantiles)
            )
            windows = (beam.pvalue.AsSingleton(boundaries),)
        cut = users.events | "Cut" >> beam.ParDo(CutUser(split), *windows).with_outputs(
            "validation", "test", "training_ads", "tally", main="train"
        )
        for name in SEQUENCE_SPLITS:
            _ = cut[name] | f"Write[{name}]" >> _write(sequences.uri, name)
        mined = cut.training_ads | "Swing" >> SwingPairs(
            exec_properties["swing_alpha"],
            exec_properties["swing_top_k"],
            exec_properties["max_users_per_ad"],
            exec_properties["max_ads_per_user"],
            bool(exec_properties["swing_single_users"]),
        )
        _ = mined | "WritePairs" >> _write(pairs.uri, PAIR_SPLITS[0])
        tally = (
            users.tally,
            cut.tally,
            mined | "CountPairs" >> beam.combiners.Count.Globally() | "P" >> _named("pairs"),
            events | "CountEvents" >> beam.combiners.Count.Globally() | "R" >> _named("read"),
        ) | "Tally" >> beam.Flatten()
        _ = {
            "rejected": joined.rejected,
            "tally": tally,
        } | "Quarantine" >> quarantine.WriteQuarantine(sequences.uri)

    def _conclude(
        self, sequences: types.Artifact, pairs: types.Artifact, exec_properties: dict[str, Any]
    ) -> None:
        counts = quarantine.read_counts(sequences.uri)
        limit = exec_properties["max_rejected_share"]
        quarantine.check_share(
            sequences.uri, counts, "events", limit, "data.events.max_rejected_share"
        )
        tally = counts.tally
        if not tally.get("kept"):
            kept = quarantine.keep_quarantine(sequences.uri)
            raise Refused(
                f"None of the {counts.read:,} events names a known ad, at least 1 is needed; the "
                f"reasons: {kept}"
            )
        if not tally.get("train"):
            kept = quarantine.keep_quarantine(sequences.uri)
            raise Refused(
                f"{exec_properties['split']} leaves 0 of {tally['kept']:,} events for training, "
                f"since too many share one time; use data.split=leave_one_out. Rejected: {kept}"
            )
        for name in ("users", "kept", "repeated", *SEQUENCE_SPLITS):
            sequences.set_int_custom_property(name, tally.get(name, 0))
        sequences.set_int_custom_property("rejected", counts.rejected)
        pairs.set_int_custom_property("pairs", tally["pairs"])
        repeated = tally.get("repeated", 0)
        dropped = f", {repeated:,} repeats dropped" if repeated else ""
        set_summary(
            sequences,
            f"{tally['users']:,} users, {tally['kept']:,} events ({tally.get('test', 0):,} test "
            f"targets), {tally['pairs']:,} Swing pairs, {counts.rejected:,} rejected{dropped}",
        )
        set_summary(pairs, f"{tally['pairs']:,} Swing pairs")


def _read(split_uri: str) -> beam.PTransform:
    return beam.io.ReadFromTFRecord(io_utils.all_files_pattern(split_uri))


def _write(uri: str, split: str) -> beam.PTransform:
    path = os.path.join(uri, f"Split-{split}", "data_tfrecord")
    return beam.io.WriteToTFRecord(path, file_name_suffix=".gz")


def _named(name: str) -> beam.PTransform:
    return beam.Map(lambda count: (name, count))
