"""What finds the dense candidates of hybrid mode: scores of all ads, or an index tuned for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.refusal import Refused
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.records import Sequences
from sid_tfx.decoder import DENSE_CANDIDATES
from sid_tfx.export import WireLimits
from sid_tfx.export.context import histories_in_context
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import FLAVOURS, Choice, TopK, build_index

AUTO, EXACT, INDEX = ASKED = ("auto", "exact", "index")
"""`auto`: the fastest that reaches the recall, all ads where they are few; `index`: ScaNN, and for
the portable servable the partitioned index; `exact`: all ads are scored."""

AUTO_FROM = 50_000
"""Ads below which `auto` looks for no index: the search takes minutes and gains next to nothing.

Time of `recommend` in hybrid mode with an index over its time with all ads scored, by
`benchmarks.dense_candidates` on a loaded machine: 1.00 to 1.19 at 10,000 ads, 0.84 to 1.07 at
50,000 (ScaNN 0.84 and 0.86), 0.67 to 0.94 at 100,000."""

_KINDS = {AUTO: "auto", INDEX: "approximate"}
_NAMES = {"scann": "ScaNN", "partitioned": "partitions"}
_CURE = "servable.dense_index=exact needs none"
# Half of them tune the indices, the others judge what was chosen.
_USERS = 1024
_FEWEST_USERS = 64
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class DenseCandidates:
    """The dense side of one servable.

    Attributes:
        index: Over the recommender's `item_vectors`; None where all ads are scored.
        record: What was asked, chosen and measured, JSON-able.
        summary: The same in a few words.
    """

    index: TopK | None
    record: dict[str, Any]
    summary: str


def dense_candidates(
    asked: str,
    recommender: SidRecommender,
    catalog: SidCatalog,
    sequences: Sequences,
    limits: WireLimits,
    min_recall: float,
    seed: int,
) -> dict[str, DenseCandidates]:
    """Chooses what finds the dense candidates, by measurement on states of users.

    Args:
        asked: Of `ASKED`.
        recommender: The trained recommender.
        catalog: Its catalogue.
        sequences: Training histories: what users look like.
        limits: The servable's maxima.
        min_recall: Recall against all ads scored that an index must reach.
        seed: Draws the users.

    Returns:
        Flavour -> its dense side.

    Raises:
        Refused: `asked` is unknown, or an index was asked for and there is none that reaches the
            recall.
    """
    if asked not in ASKED:
        raise Refused(f"Composer: dense_index must be one of {ASKED}, got {asked!r}.")
    if asked == EXACT:
        return dict.fromkeys(FLAVOURS, _all_ads(asked, "all ads are scored, as was asked for"))
    if asked == AUTO and len(catalog) < AUTO_FROM:
        reason = f"{len(catalog):,} ads, below {AUTO_FROM:,} an index hardly pays"
        return dict.fromkeys(FLAVOURS, _all_ads(asked, reason))
    queries = user_queries(recommender, catalog, sequences, limits.max_history, seed)
    if len(queries) < _FEWEST_USERS:
        reason = (
            f"{len(queries)} training users have a known ad, to measure an index takes at least "
            f"{_FEWEST_USERS}"
        )
        if asked == INDEX:
            raise Refused(f"Composer: no index for the dense candidates: {reason}; {_CURE}.")
        return dict.fromkeys(FLAVOURS, _all_ads(asked, reason))
    try:
        selection = build_index(
            keras.ops.convert_to_numpy(recommender.item_vectors()),
            kind=_KINDS[asked],
            k=min(DENSE_CANDIDATES, len(catalog)),
            # An index fetches as many more as a request may exclude, by name or as seen.
            max_k=DENSE_CANDIDATES + limits.max_exclude + limits.max_history,
            recall_target=min_recall,
            similarity="dot_product",
            queries=_USERS // 2,
            query_vectors=queries,
            seed=seed,
        )
    except ValueError as error:
        raise Refused(f"Composer: no index for the dense candidates: {error}; {_CURE}.") from error
    return {
        flavour: _chosen(asked, choice, selection.k, min_recall)
        for flavour, choice in selection.choices.items()
    }


def user_queries(
    recommender: SidRecommender,
    catalog: SidCatalog,
    sequences: Sequences,
    max_history: int,
    seed: int,
) -> np.ndarray:
    """Dense queries of training users, float32 [U, hidden_size]; U is at most 1,024.

    Args:
        recommender: The trained recommender.
        catalog: Its catalogue.
        sequences: Training histories; users without a known ad are left out.
        max_history: Newest ads that are read, as the servable reads them.
        seed: Draws the users.
    """
    known = np.array([(catalog.rows(ads) >= 0).any() for ads in sequences.histories], bool)
    users = np.random.default_rng(seed).permutation(np.flatnonzero(known))[:_USERS]
    queries = []
    for start in range(0, len(users), _BATCH):
        some = sequences.users(users[start : start + _BATCH].tolist())
        histories = histories_in_context(
            recommender.context,
            _padded([catalog.rows(ads) for ads in some.histories], -1),
            _padded(some.timestamps, 0),
            _padded(some.events, ""),
            _padded(some.weights, 0.0),
            max_history,
        )
        query = recommender.dense_query(recommender.user_state(histories))
        queries.append(keras.ops.convert_to_numpy(query))
    return np.concatenate(queries) if queries else np.zeros((0, 0), np.float32)


def _padded(values: list[np.ndarray], padding: Any) -> tf.Tensor:
    width = max(len(row) for row in values)
    rows = [np.pad(row, (0, width - len(row)), constant_values=padding) for row in values]
    return tf.constant(np.stack(rows))


def _chosen(asked: str, choice: Choice, k: int, min_recall: float) -> DenseCandidates:
    if choice.index.is_exact():
        return _all_ads(asked, choice.reason)
    kind, recall = choice.index.kind, choice.recall.mean
    if recall < min_recall:
        # Asked for by name: auto takes no index that misses.
        raise Refused(
            f"Composer: dense candidates by {_NAMES[kind]} have recall@{k} {recall:.3f} for users "
            f"that the tuning did not see, the limit is at least {min_recall:g}; {_CURE}."
        )
    # Rounded once, so that record and summary agree.
    recall = round(recall, 4)
    record = {
        "asked": asked,
        "kind": kind,
        "reason": choice.reason,
        f"recall@{k}": recall,
        "recall_error": round(choice.recall.error, 4),
        "milliseconds": round(choice.milliseconds, 4),
        "parameters": choice.index.get_config(),
    }
    return DenseCandidates(
        choice.index, record, f"dense candidates by {_NAMES[kind]}, recall@{k} {recall:.3f}"
    )


def _all_ads(asked: str, reason: str) -> DenseCandidates:
    record = {"asked": asked, "kind": "brute_force", "reason": reason}
    return DenseCandidates(None, record, "dense candidates by brute force")
