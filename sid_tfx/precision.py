"""The one precision that the models compute in."""

import keras


def check_float32(*layers: keras.layers.Layer) -> None:
    """Checks that layers and what is made next compute in float32.

    Semantic IDs are compared by equality: under `mixed_bfloat16` a tokenizer gives 8% of the ads
    other codes than in float32. On a CPU float32 was measured to be the faster one, too.

    Args:
        *layers: A model, as soon as it knows its policy, and the parts that it is given.

    Raises:
        ValueError: Keras' global dtype policy or that of a layer is another one.
    """
    for layer in layers:
        for policy in (layer.dtype_policy, keras.config.dtype_policy()):
            if policy.name != "float32":
                raise ValueError(
                    f"{type(layer).__name__} computes in float32 alone, got the dtype policy "
                    f"{policy.name!r}; leave dtype out and call "
                    "keras.config.set_dtype_policy('float32') before you make or load it."
                )
