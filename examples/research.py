"""From two tables to evaluated semantic IDs and recommendations, in one script and without TFX.

    python examples/research.py                                     # the simulated sample
    python examples/research.py --ads ads.parquet --events events.parquet

`ads` needs `ad_id` and any of title, description, summary, advertiser, category_path, price,
`*_embedding`; `events` needs `user_id`, `ad_id`, `timestamp`. Every step below is an ordinary
Keras object or NumPy array: replace what you want to study and keep the rest.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from sid_tfx.baselines import ItemKnn, Popularity
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.ads import AdTable, load_ads, load_events
from sid_tfx.datasets.batches import SequenceBatches
from sid_tfx.datasets.market import write_sample
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.datasets.preprocessor import AdPreprocessor
from sid_tfx.datasets.sequences import SequenceSplits, leave_one_out
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.datasets.swing import swing_pairs
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import (
    GenerativeRecommender,
    Recommender,
    Result,
    choose_hybrid_weights,
    evaluate,
    paired_bootstrap,
)
from sid_tfx.metrics.sid_quality import prefix_purity, sid_quality
from sid_tfx.presets import PRESETS
from sid_tfx.recommender import SidRecommender
from sid_tfx.tokenizer import SidTokenizer


def main() -> None:
    """Runs every step and prints what it made."""
    settings = read_arguments()
    # Fixes initial weights and dropout; the order of batches has its own seed.
    keras.utils.set_random_seed(settings.seed)
    begin = time.monotonic()

    heading("Data")
    if settings.ads is None:
        folder = Path(tempfile.mkdtemp(prefix="sid_tfx_sample_"))
        settings.ads, settings.events = write_sample(folder)
        print(f"simulated sample in {folder}")
    ads = load_ads(settings.ads)
    events = load_events(settings.events, ads)
    print(f"{len(ads):,} ads, {events['user_id'].nunique():,} users, {len(events):,} events")
    print(f"columns read: {ads.schema}")

    # Each user's last event is the test target, the one before it the validation target.
    # Whatever learns from events sees `splits.train` alone.
    rows = np.searchsorted(ads.ad_ids, events["ad_id"].to_numpy(dtype=str))
    splits = leave_one_out(events["user_id"].to_numpy(), rows, events["timestamp"].to_numpy())

    heading("Tokenizer: ads to semantic IDs")
    tokenizer, features = train_tokenizer(ads, splits, settings)
    encoded = tokenizer.encode(features)
    # Ads with equal codes get a de-dup token, so that a full SID names exactly one ad.
    catalog = SidCatalog.build(
        ads.ad_ids,
        encoded["codes"],
        encoded["embedding"],
        tokenizer.codebook_size,
        # The first of an ad's best tuples is its own codes.
        alternatives=tokenizer.ranked_codes(features, n=17)[:, 1:],
    )
    show_codes(ads, catalog)

    heading("Recommender: a history to the next ad's SID")
    recommender = train_recommender(catalog, splits, settings)

    heading("Evaluation: every ad is a candidate, the ads of the history are left out")
    show_ranking(recommender, catalog, splits)
    print(f"\n{time.monotonic() - begin:.0f} s in all")


def train_tokenizer(
    ads: AdTable, splits: SequenceSplits, settings: argparse.Namespace
) -> tuple[SidTokenizer, dict[str, np.ndarray]]:
    """Trains a tokenizer on the ads' content and on which ads the same users look at."""
    preprocessor = AdPreprocessor(ads.schema).adapt(ads)
    features = preprocessor.transform(ads)

    # Swing pairs two ads when the same users met both, and trusts users with little else in
    # common. The tokenizer pulls such pairs together, so that codes say more than content does.
    train = splits.train
    users = np.repeat(np.arange(len(train)), train.lengths)
    pairs = swing_pairs(users, train.rows)
    print(f"{len(pairs.trigger):,} co-engaged pairs")

    tokenizer = SidTokenizer.from_preset(
        settings.preset,
        ads.schema,
        preprocessor.sizes,
        levels=3,
        # Fewer codes than ads by far: a code has to stand for something that ads share.
        codebook_size=settings.codebook_size,
        # The sample is small; a preset that reads given vectors has no such tower.
        encoder={"dim": 64, "layers": 1} if settings.preset in ("joint", "unisid") else {},
        seed=settings.seed,
    )
    batches = PairBatches(
        features,
        np.stack([pairs.trigger, pairs.target], axis=1),
        pairs.score,
        # Small batches: a small catalogue has few of them an epoch, and steps are what it needs.
        batch_size=64,
        seed=settings.seed,
    )
    # `distinct_share` in the progress bar is what to watch first: it falls when codes collapse.
    tokenizer.fit(batches, epochs=settings.tokenizer_epochs, verbose=2)
    return tokenizer, features


def show_codes(ads: AdTable, catalog: SidCatalog) -> None:
    """Prints what the codes are worth, and what a few branches of the first level hold."""
    paths = ads.frame["category_path"] if ads.schema.category_depth else None
    names = None if paths is None else paths.map(" > ".join).to_numpy()
    quality = sid_quality(catalog.codes, catalog.codebook_size, names)
    print(
        f"\n{quality['collision_share']:.1%} of ads share their codes (largest group "
        f"{quality['largest_group']}); entropy {quality['entropy_nats']:.3f} nats, "
        f"{quality['entropy_share']:.1%} of its maximum"
    )
    print("codes in use per level: " + ", ".join(f"{share:.0%}" for share in quality["coverage"]))
    if paths is None or names is None:
        return
    roots = paths.map(lambda path: path[0] if path else "").to_numpy()
    print("V-measure against the category, per level: " + shares(quality["v_measure"]))
    print("ads in their prefix's main root: " + shares(prefix_purity(catalog.codes, roots)))

    # Ads that begin with the same code should be of one kind: read a few and judge.
    common = np.argsort(-np.bincount(catalog.codes[:, 0]), kind="stable")[:3]
    for code in common:
        members = np.flatnonzero(catalog.codes[:, 0] == code)
        print(f"\nSIDs that begin with {code}: {len(members)} ads, such as")
        for row in members[:: max(1, len(members) // 5)][:5]:
            sid = "-".join(map(str, catalog.full_codes[row]))
            title = ads.frame["title"][row] if "title" in ads.frame else catalog.ad_ids[row]
            print(f"  {sid:<14} {names[row]:<44.44} {title or '':.60}")


def train_recommender(
    catalog: SidCatalog, splits: SequenceSplits, settings: argparse.Namespace
) -> SidRecommender:
    """Trains a recommender on every position of every training history."""
    # Small, and so few epochs that nothing is needed against overfitting.
    recommender = SidRecommender.for_catalog(
        catalog,
        SuccessorTable.count(splits.train, len(catalog)),
        hidden_size=64,
        mlp_size=256,
        head_size=256,
        dropout=0.1,
        seed=settings.seed,
    )
    # XLA on a CPU hardly uses a second core.
    recommender.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=1.0), jit_compile=False)
    recommender.fit(
        SequenceBatches(splits.train, seed=settings.seed),
        epochs=settings.recommender_epochs,
        shuffle=False,
        verbose=2,
    )
    return recommender


def show_ranking(recommender: SidRecommender, catalog: SidCatalog, splits: SequenceSplits) -> None:
    """Prints the recommender beside the baselines it must beat, on the same test users."""
    decoder = SidDecoder(recommender, beam_size=20)
    # How much each source weighs beside the SID's probability is a choice: on validation.
    hybrid = GenerativeRecommender(decoder, "hybrid")
    choose_hybrid_weights(hybrid, splits.validation)
    methods: dict[str, Recommender] = {
        "popularity": Popularity(splits.train, len(catalog)),
        "item kNN": ItemKnn(splits.train, len(catalog)),
        "SID, generative": GenerativeRecommender(decoder),
        "SID, hybrid": hybrid,
    }
    results: dict[str, Result] = {}
    print(f"{'method':<17} {'R@5':>7} {'R@10':>7} {'N@5':>7} {'N@10':>7}")
    for name, method in methods.items():
        results[name] = evaluate(name, method, splits.test, catalog, filtered=True)
        record = results[name].record()
        figures = [record[metric] for metric in ("recall@5", "recall@10", "ndcg@5", "ndcg@10")]
        print(f"{name:<17} " + " ".join(f"{figure:7.4f}" for figure in figures))
    # Differences between methods are smaller than they look: ask the users, not the means.
    lead = paired_bootstrap(results["SID, hybrid"], results["item kNN"])
    print(
        f"\nN@10 of hybrid minus item kNN: {lead['difference']:+.4f}, "
        f"95% interval {lead['low']:+.4f} to {lead['high']:+.4f}"
    )


def read_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Semantic IDs and recommendations without TFX.")
    parser.add_argument("--ads", help="Parquet, CSV or JSON Lines; the sample by default")
    parser.add_argument("--events", help="Parquet, CSV or JSON Lines")
    parser.add_argument("--preset", default="joint", choices=sorted(PRESETS))
    parser.add_argument("--codebook-size", type=int, default=128, help="codes per level")
    parser.add_argument("--tokenizer-epochs", type=int, default=40)
    parser.add_argument("--recommender-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=17)
    settings = parser.parse_args()
    if (settings.ads is None) != (settings.events is None):
        parser.error("--ads and --events go together")
    return settings


def heading(title: str) -> None:
    """Prints the name of a step."""
    print(f"\n== {title}", flush=True)


def shares(values: list[float]) -> str:
    """Formats shares, one per level."""
    return ", ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main()
