"""How a recommender is trained: optimizer, schedule, and the epoch that is kept."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from pipeline.config import RecommenderConfig
from pipeline.training import progress
from sid_tfx.datasets.batches import SequenceBatches, TargetBatches
from sid_tfx.datasets.sequences import EvaluationSet, Sequences
from sid_tfx.evaluation import (
    MAX_HISTORY,
    ExhaustiveRecommender,
    GenerativeRecommender,
    Recommender,
    choose_hybrid_weights,
)
from sid_tfx.evaluation.hybrid_weights import DENSE_WEIGHTS, SUCCESSOR_WEIGHTS
from sid_tfx.validation import RankingValidation

_FINAL_RATE_SHARE = 0.02


def train_recommender(
    model: keras.Model,
    train: Sequences,
    validation: EvaluationSet,
    settings: RecommenderConfig,
    seed: int,
    ranked: Recommender | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | None = None,
    max_history: int = MAX_HISTORY,
) -> keras.callbacks.History:
    """Trains with AdamW and a cosine schedule; keeps the epoch that ranks best on validation users.

    Args:
        model: A `SidRecommender` of any architecture, or another model of `SequenceBatches`.
        train: Training histories.
        validation: Users to rank for after each epoch; without any, the last epoch is kept.
        settings: The budget.
        seed: Of the order of the batches.
        ranked: See `RankingValidation`.
        callbacks: Further ones.
        verbose: Keras'; None for a progress bar where a person watches, else nothing.
        max_history: Newest ads of a validation user's history that are read.

    Returns:
        Keras' history.
    """
    batches_of = TargetBatches if getattr(model, "one_target", False) else SequenceBatches
    batches = batches_of(
        train, settings.max_history, settings.batch_positions, seed, settings.deletion
    )
    steps = settings.epochs * len(batches)
    warmup_steps = int(settings.warmup_share * steps)
    rate: float | keras.optimizers.schedules.LearningRateSchedule = settings.learning_rate
    if warmup_steps:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps - warmup_steps),
            alpha=_FINAL_RATE_SHARE,
            warmup_target=settings.learning_rate,
            warmup_steps=warmup_steps,
        )
    averaged = settings.ema_momentum is not None
    optimizer = keras.optimizers.AdamW(
        rate,
        weight_decay=settings.weight_decay,
        global_clipnorm=1.0,
        use_ema=averaged,
        ema_momentum=settings.ema_momentum or 0.0,
    )
    # XLA on a CPU hardly uses a second core; JAX has nothing else.
    model.compile(optimizer, jit_compile=keras.backend.backend() != "tensorflow")
    chosen: list[keras.callbacks.Callback] = []
    if averaged:
        # The first of all: what is validated and kept are the averages.
        chosen.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    # A log in which nobody has three events has nobody to validate on.
    if len(validation):
        stop = keras.callbacks.EarlyStopping(
            "val_ndcg@10", mode="max", patience=settings.patience, restore_best_weights=True
        )
        chosen += [RankingValidation(validation, ranked=ranked, max_history=max_history), stop]
    return model.fit(
        batches,
        epochs=settings.epochs,
        callbacks=[*chosen, *callbacks],
        shuffle=False,
        verbose=progress() if verbose is None else verbose,
    )


def set_hybrid_weights(
    hybrid: GenerativeRecommender | ExhaustiveRecommender,
    validation: EvaluationSet,
    settings: RecommenderConfig,
    max_history: int = MAX_HISTORY,
) -> list[dict[str, float]]:
    """Sets the weights of hybrid scoring: those configured, the others the best on validation.

    Args:
        hybrid: Ranks in mode `"hybrid"`; its recommender is changed.
        validation: Users with held-out targets; without any, what is not configured stays
            what it is: 1, or 0 for a dense score that the loss left out.
        settings: May have `dense_weight` and `successor_weight`.
        max_history: Newest ads of a history that are read.

    Returns:
        The trials, see `choose_hybrid_weights`; none where nothing was to be chosen.
    """
    dense, followed = settings.dense_weight, settings.successor_weight
    if dense is None and settings.arguments.get("dense_loss_weight") == 0:
        # What nothing trained is not to be chosen, and no place to begin at.
        dense = 0.0
    if len(validation) and None in (dense, followed):
        return choose_hybrid_weights(
            hybrid,
            validation,
            DENSE_WEIGHTS if dense is None else (dense,),
            SUCCESSOR_WEIGHTS if followed is None else (followed,),
            max_history=max_history,
        )
    if dense is not None:
        hybrid.recommender.dense_weight.assign(dense)
    if followed is not None:
        hybrid.recommender.successor_weight.assign(followed)
    return []
