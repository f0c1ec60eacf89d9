"""Callbacks that move a setting of the tokenizer from epoch to epoch."""

import math
from typing import Any

import keras
from keras import ops

from sid_tfx.callbacks.order import LogWriter
from sid_tfx.losses.diversity import CodeDiversity

_SCHEDULES = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


class ExplorationDecay(LogWriter):
    """Lowers `model.quantizer.exploration` from its `initial_exploration` to 0, in each `fit` anew.

    Early noise lets every code be tried; codes must be sure of themselves before training ends,
    because there is no noise when ads are encoded. Logs `exploration`.

    Args:
        until: Share of the epochs after which exploration is 0.
        schedule: `linear` or `cosine`.

    Raises:
        ValueError: `until` is not in (0, 1], `schedule` is unknown, or, when training starts, the
            quantizer does not explore.

    Example:

    >>> tokenizer.fit(batches, epochs=20, callbacks=[ExplorationDecay(until=0.6)])

    Reference:
        DIGER: Gumbel exploration that decays.
    """

    def __init__(self, until: float = 0.8, schedule: str = "linear") -> None:
        super().__init__()
        if not 0.0 < until <= 1.0:
            raise ValueError(f"until must be in (0, 1], got {until}.")
        if schedule not in _SCHEDULES:
            raise ValueError(f"schedule must be one of {sorted(_SCHEDULES)}, got {schedule!r}.")
        self.until = until
        self.schedule = schedule
        self._start = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes where exploration starts: not at the weight, which a training before left low."""
        if not hasattr(self.model.quantizer, "exploration"):
            raise ValueError(
                f"ExplorationDecay needs a quantizer that explores, got "
                f"{type(self.model.quantizer).__name__} without; leave the callback out, or make "
                "the quantizer with gradient='gumbel'."
            )
        self._start = float(self.model.quantizer.initial_exploration)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the epoch's exploration."""
        done = min(1.0, epoch / (self.until * self.params["epochs"]))
        self.model.quantizer.exploration.assign(self._start * _SCHEDULES[self.schedule](done))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch's exploration."""
        if logs is not None:
            logs["exploration"] = float(ops.convert_to_numpy(self.model.quantizer.exploration))


class LearningRateDecay(LogWriter):
    """Lowers the learning rate from epoch to epoch by a cosine.

    At a constant rate vectors and codebooks keep moving, and ads that repulsion has parted collide
    anew; what decays settles. At a hundredth of the rate a tenth of the ads still changes a code in
    an epoch, so the last epochs all but stand still. Logs `learning_rate`.

    Args:
        final_share: Learning rate that the cosine falls to, relative to that of the start. It is
            reached after the last epoch: of E epochs the last has about (1.6 / E)² more.

    Raises:
        ValueError: `final_share` is not in (0, 1].

    Example:

    >>> tokenizer.fit(batches, epochs=20, callbacks=[LearningRateDecay(final_share=0.1)])
    """

    def __init__(self, final_share: float = 0.001) -> None:
        super().__init__()
        if not 0.0 < final_share <= 1.0:
            raise ValueError(f"final_share must be in (0, 1], got {final_share}.")
        self.final_share = final_share
        self._start = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes the rate of the start."""
        self._start = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the epoch's rate."""
        left = _SCHEDULES["cosine"](epoch / self.params["epochs"])
        share = self.final_share + (1.0 - self.final_share) * left
        self.model.optimizer.learning_rate = self._start * share

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch's rate."""
        if logs is not None:
            logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate of the start, for a further training."""
        self.model.optimizer.learning_rate = self._start


class DiversityRefresh(keras.callbacks.Callback):
    """Groups the code vectors anew for `CodeDiversity`, before training and every few epochs.

    Args:
        diversity: The loss whose groups to set; its `levels` and `codebook_size` are those of
            `model.quantizer.codebooks`.
        every: Epochs between two groupings.
        seed: Seed of the groupings.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, diversity: CodeDiversity, every: int = 1, seed: int = 0) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        self.diversity = diversity
        self.every = every
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Groups where the epoch is one of the points."""
        if epoch % self.every == 0:
            self.diversity.refresh(self.model.quantizer.codebooks, self.seed + epoch)
