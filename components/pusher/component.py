"""Pusher: TFX's own, cached only while what it pushed is what its folder serves.

In: `infra_blessing` (with the model and its warm-up file), `model_blessing`.
Out: `pushed_model` (PushedModel).
"""

from tfx import components

from components.pusher.driver import Driver


class Pusher(components.Pusher):
    """Copies a blessed servable to the push directory, under the next version.

    The cache knows a stage's inputs, not what has become of its output: the version was deleted,
    or another was pushed after it. Stock Pusher would report the old push in both cases.
    """

    DRIVER_CLASS = Driver
