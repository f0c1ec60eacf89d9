"""Swing pairs in Beam: one group for each trigger ad, scored in batches of groups."""

import hashlib
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from components.example_gen.encode import encode_examples
from sid_tfx.datasets.swing import swing_of_histories

_BATCH_ROWS = 20_000
_Member = tuple[bytes, tuple[bytes, ...]]


class SwingPairs(beam.PTransform):
    """`(user id, training ads)` to serialized tf.Examples with `trigger`, `target`, `score`.

    Args:
        alpha: Smoothing of the score.
        top_k: Targets kept for a trigger.
        max_users_per_ad: Users taken for a trigger, chosen by a hash of user and ad.
        max_ads_per_user: Newest distinct ads of a user that count.
        single_users: Whether one user who met both ads is enough.
    """

    def __init__(
        self,
        alpha: float,
        top_k: int,
        max_users_per_ad: int,
        max_ads_per_user: int,
        single_users: bool,
    ) -> None:
        super().__init__()
        self._alpha = alpha
        self._top_k = top_k
        self._max_users = max_users_per_ad
        self._max_ads = max_ads_per_user
        self._single_users = single_users

    def expand(self, pcoll: beam.PCollection) -> beam.PCollection:
        """Adds the steps to the pipeline."""
        return (
            pcoll
            | "ByTrigger" >> beam.FlatMap(memberships, self._max_ads)
            | "Group" >> beam.GroupByKey()
            | "Cap" >> beam.Map(cap_users, self._max_users)
            | "Score" >> beam.ParDo(_Score(self._alpha, self._top_k, self._single_users))
        )


def memberships(
    user: tuple[bytes, tuple[bytes, ...]], max_ads: int
) -> Iterator[tuple[bytes, _Member]]:
    """A user's `(trigger, (user, distinct ads))` for each of the user's ads."""
    user_id, history = user
    newest = tuple(sorted(list(dict.fromkeys(reversed(history)))[:max_ads]))
    # A user of one ad is in no intersection that holds a second one.
    if len(newest) > 1:
        for ad_id in newest:
            yield ad_id, (user_id, newest)


def cap_users(
    group: tuple[bytes, Iterable[_Member]], max_users: int
) -> tuple[bytes, list[_Member]]:
    """Keeps at most `max_users` members, by a hash, in the order of their ids."""
    trigger, members = group
    rows = sorted(members)
    if len(rows) > max_users:
        rows = sorted(sorted(rows, key=lambda row: (_hash(row[0], trigger), row[0]))[:max_users])
    return trigger, rows


def _hash(user_id: bytes, ad_id: bytes) -> bytes:
    return hashlib.blake2b(user_id, digest_size=8, key=hashlib.md5(ad_id).digest()).digest()


class _Score(beam.DoFn):
    """Gathers groups so that the array code sees thousands of rows at once."""

    def __init__(self, alpha: float, top_k: int, single_users: bool) -> None:
        self._alpha = alpha
        self._top_k = top_k
        self._single_users = single_users

    def start_bundle(self) -> None:
        self._groups: list[tuple[bytes, list[_Member]]] = []
        self._rows = 0

    def process(self, group: tuple[bytes, list[_Member]]) -> Iterator[bytes]:
        self._groups.append(group)
        self._rows += len(group[1])
        if self._rows >= _BATCH_ROWS:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        window = GlobalWindow()
        for example in self._flush():
            yield WindowedValue(example, window.max_timestamp(), [window])

    def _flush(self) -> list[bytes]:
        groups, self._groups, self._rows = self._groups, [], 0
        return score_groups(groups, self._alpha, self._top_k, self._single_users)


def score_groups(
    groups: list[tuple[bytes, list[_Member]]], alpha: float, top_k: int, single_users: bool
) -> list[bytes]:
    """Scores whole trigger groups and serializes their pairs."""
    members = [(trigger, ads) for trigger, rows in groups for _, ads in rows]
    if not members:
        return []
    # Integer order = id order, so that ties break by ad id whatever shares the batch.
    names = sorted({ad for _, ads in members for ad in ads})
    index = {name: position for position, name in enumerate(names)}
    trigger = np.fromiter((index[name] for name, _ in members), np.int64, len(members))
    lengths = np.fromiter((len(ads) for _, ads in members), np.int64, len(members))
    items = np.fromiter((index[ad] for _, ads in members for ad in ads), np.int64, lengths.sum())
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    pairs = swing_of_histories(
        trigger, indptr, items, alpha=alpha, top_k=top_k, single_users=single_users
    )
    ids = pa.array(names, pa.large_binary())
    return encode_examples(
        {
            "trigger": ids.take(pa.array(pairs.trigger)),
            "target": ids.take(pa.array(pairs.target)),
            "score": pa.array(pairs.score),
        },
        np.arange(len(pairs.score)),
    )
