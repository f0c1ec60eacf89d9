"""Ranking on validation users while a recommender trains, to choose the epoch that is kept."""

from sid_tfx.callbacks.order import LogWriter
from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation import MAX_HISTORY, GenerativeRecommender, Recommender
from sid_tfx.metrics.ranking import ranking_metrics, target_ranks


class RankingValidation(LogWriter):
    """Adds `val_recall@10` and `val_ndcg@10` to every epoch's logs, for `EarlyStopping` to read.

    The loss is a poor guide to when to stop: label smoothing and the dense term keep it moving
    after the ranking has stopped improving. `fit` of `SidRecommender` and `SasRec` puts this
    callback before those that read the logs; for another model's `fit` `writers_first` does.

    Args:
        validation: One target per user; `EvaluationSet.sample` keeps this cheap.
        mode: `"generative"` or `"hybrid"`.
        beam_size: Beams; fewer than in serving, since only the order of epochs is wanted.
        ranked: What ranks: a model that is no `SidRecommender`, such as `SasRec`, itself; on the
            JAX backend an `ExhaustiveRecommender`; None decodes the model in training.
        max_history: Newest ads of a history that are read: as many as where the model will rank.

    Example:

    >>> ranking = RankingValidation(splits.validation.sample(3000))
    >>> best = keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", restore_best_weights=True)
    >>> recommender.fit(SequenceBatches(splits.train), epochs=50, callbacks=[ranking, best])
    """

    def __init__(
        self,
        validation: EvaluationSet,
        mode: str = "generative",
        beam_size: int = 20,
        ranked: Recommender | None = None,
        max_history: int = MAX_HISTORY,
    ) -> None:
        super().__init__()
        self.histories = validation.histories(max_history)
        self.targets = validation.targets
        self.mode = mode
        self.beam_size = beam_size
        self._given = ranked
        self._decoded: GenerativeRecommender | None = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Ranks for the validation users."""
        if logs is None:
            return
        rows = (self._given or self._decode()).recommend(self.histories, 10, False)
        metrics = ranking_metrics(target_ranks(rows, self.targets))
        logs.update({f"val_{name}": metrics[name] for name in ("recall@10", "ndcg@10")})

    def _decode(self) -> GenerativeRecommender:
        if self._decoded is None:
            # TensorFlow, which a recommender that is trained on JAX does without.
            from sid_tfx.decoder import SidDecoder

            decoder = SidDecoder(self.model, beam_size=self.beam_size)
            self._decoded = GenerativeRecommender(decoder, self.mode)
        self._decoded.decoder.refresh()
        return self._decoded
