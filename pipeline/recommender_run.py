"""RecommenderTrainer's `run_fn`: user sequences and a catalogue in, a SidRecommender out."""

import time

import keras
from tfx.components.trainer.fn_args_utils import FnArgs

from components.refusal import Refused
from pipeline.config import RecommenderConfig
from pipeline.recommender_training import set_hybrid_weights, train_recommender
from pipeline.training import history_summary, make_deterministic
from sid_tfx.bundle import save_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.context import EventContext
from sid_tfx.datasets import records
from sid_tfx.datasets.catalog_rows import evaluation_set, flat_sequences
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender
from sid_tfx.recommender import SidRecommender


def run_fn(fn_args: FnArgs) -> None:
    """Trains the recommender and writes `model.keras` and `metadata.json`.

    The epoch kept and the weights of hybrid scoring are chosen on validation users, where their
    targets are held out.

    Args:
        fn_args: Stock TFX arguments; `custom_config` holds `seed`, `recommender`
            (RecommenderConfig as a dict), `held_out`, whether validation events are,
            `max_history` and `beam_size`, the ads of a history that the servable reads and its
            beams, and `inputs["catalog"]`.
    """
    settings = RecommenderConfig(**fn_args.custom_config["recommender"])
    seed, max_history = (fn_args.custom_config[name] for name in ("seed", "max_history"))
    make_deterministic(seed)

    catalog = SidCatalog.load(fn_args.custom_config["inputs"]["catalog"])
    found = records.read_sequences(fn_args.train_files)
    if not any(len(history) > 1 for history in found.histories):
        raise Refused(
            f"none of the {len(found.histories):,} training histories has 2 ads, the least there "
            "is a next ad to learn from; give a longer event log, or data.split=all, which holds "
            "no events back."
        )
    train = flat_sequences(found, catalog)
    try:
        context = EventContext.of(train, settings.context)
    except ValueError as error:
        raise Refused(f"recommender.context = {settings.context}: {error}") from error
    validation = evaluation_set(records.read_sequences(fn_args.eval_files), catalog)
    # A target that was trained on says nothing of the others.
    users = settings.validation_users if fn_args.custom_config["held_out"] else 0
    validation = validation.sample(users).in_context(context)
    recommender = SidRecommender.for_catalog(
        catalog,
        SuccessorTable.count(train, len(catalog), settings.successors),
        max_history=settings.max_history,
        context=context,
        seed=seed,
        **settings.model_arguments(),
    )
    begin = time.monotonic()
    history = train_recommender(
        recommender,
        train.in_context(context),
        validation,
        settings,
        seed,
        callbacks=[keras.callbacks.TensorBoard(fn_args.model_run_dir)],
        max_history=max_history,
    )
    decoder = SidDecoder(recommender, fn_args.custom_config["beam_size"])
    hybrid = GenerativeRecommender(decoder, "hybrid")
    hybrid_weights = set_hybrid_weights(hybrid, validation, settings, max_history)
    ndcg = history.history.get("val_ndcg@10")
    save_bundle(
        recommender,
        fn_args.serving_model_dir,
        {
            "summary": f"{len(train):,} users, {history_summary(history)}"
            + (f", validation N@10 {max(ndcg):.4f}" if ndcg else ", no event held out")
            + (f", reads {', '.join(context.fields)}" if context else ""),
            "train_seconds": time.monotonic() - begin,
            "history": {
                name: [float(value) for value in values] for name, values in history.history.items()
            },
            "context": context.to_dict(),
            "hybrid_weights": hybrid_weights,
            "fingerprints": {"catalog": catalog.fingerprint},
        },
    )
