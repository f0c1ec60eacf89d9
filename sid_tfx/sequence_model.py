"""What models that are trained on histories share: a loss of their own, and the same `fit`."""

from __future__ import annotations

import abc
from typing import Any

import keras

from sid_tfx.callbacks.fitting import fit_arguments

_WEIGHTS = ("sample_weight", "class_weight")


class SequenceModel(keras.Model, abc.ABC):
    """Base of models that take their own loss of histories."""

    @abc.abstractmethod
    def history_loss(self, x: Any, y: Any, y_pred: Any, training: bool = True) -> Any:
        """The scalar loss of a batch: a mean over all its targets.

        Args:
            x: The histories, as `call` takes them.
            y: Targets of the histories, int32 `[B]` of row + 1; None where each ad of a history
                is the target of the ads before it.
            y_pred: The states that `call` returned.
            training: Whether to drop.
        """

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss that `fit` and `evaluate` take; see `history_loss`.

        Args:
            x: As `history_loss`.
            y: As `history_loss`.
            y_pred: As `history_loss`.
            sample_weight: None.
            training: As `history_loss`.

        Raises:
            ValueError: There are sample weights, or the model can't train on such targets.
        """
        self._refuse_weights(sample_weight=sample_weight)
        return self.history_loss(x, y, y_pred, training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: As in `keras.Model.compile`.
            loss: None; the loss is the model's own.
            loss_weights: None.
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: `loss` or `loss_weights` is given.
        """
        for name, value in (("loss", loss), ("loss_weights", loss_weights)):
            if value is not None:
                raise ValueError(
                    f"compile can't take {name}: the loss is {type(self).__name__}'s own, which "
                    "the arguments of the constructor set."
                )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as the saved one was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        # All variables exist, so the optimizer's can too, for the file to fill.
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does.

        A `PyDataset` keeps its order, as with `shuffle=False`: that of `SequenceBatches` and
        `TargetBatches` depends on seed and epoch only. Callbacks that write into an epoch's logs,
        such as `RankingValidation`, come before those that read them (`writers_first`).

        Args:
            x: `SequenceBatches`, `TargetBatches`, or histories as `call` takes them.
            *args: As in `keras.Model.fit`.
            **kwargs: As in `keras.Model.fit`.

        Returns:
            Keras' history.

        Raises:
            ValueError: Sample or class weights are given, or targets to a model without, or none
                to a model that needs them.
        """
        # Keras forgets the weights of histories without targets, so `compute_loss` won't see them.
        self._refuse_weights(**{name: kwargs.get(name) for name in _WEIGHTS})
        return super().fit(x, *args, **fit_arguments(x, kwargs))

    def _refuse_weights(self, **weights: Any) -> None:
        for name, value in weights.items():
            if value is not None:
                raise ValueError(
                    f"{type(self).__name__} can't take {name}: its loss is the mean over all "
                    "targets, which count alike; repeat histories or leave some out."
                )


def takes_whole_histories(name: str) -> ValueError:
    """The error of a model, or a part of one, `name`, that is given targets of histories."""
    return ValueError(
        f"{name} trains on whole histories, each ad a target; give fit(x) histories alone, as "
        "sid_tfx.datasets.batches.SequenceBatches does."
    )
