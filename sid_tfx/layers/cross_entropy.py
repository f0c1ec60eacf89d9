"""The loss of a softmax over classes, of codes as of ads."""

from typing import Any

from keras import ops


def cross_entropy(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Cross-entropy `[...]` of int labels, `smoothing` spread evenly over all classes."""
    loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if smoothing:
        even = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        loss = (1 - smoothing) * loss + smoothing * even
    return loss
