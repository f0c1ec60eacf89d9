"""What both run functions do around `fit`: seeding, progress, one line about how it went."""

import sys

import keras
import tensorflow as tf


def make_deterministic(seed: int) -> None:
    """Seeds Python, NumPy and the backend, and asks TensorFlow for deterministic kernels."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def progress() -> int:
    """Keras' `verbose`: a progress bar where a person watches, nothing in a log."""
    return 1 if sys.stdout.isatty() else 0


def history_summary(history: keras.callbacks.History) -> str:
    """Says how many epochs ran and where the loss went, for the stage line."""
    losses = history.history.get("loss")
    if not losses:
        return "codebooks from data, nothing to train"
    return f"{len(losses)} epochs, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
