"""Raw ads of a request to the features of the trained tokenizer."""

import tensorflow as tf
import tensorflow_transform as tft


class TransformAds(tf.Module):
    """Parses serialized ads and applies the graph that Transform made in training.

    Args:
        transform_graph: Uri of the TransformGraph artifact.
    """

    def __init__(self, transform_graph: str) -> None:
        super().__init__(name="transform_ads")
        output = tft.TFTransformOutput(transform_graph)
        self._spec = output.raw_feature_spec()
        # As an attribute, so that the vocabularies are saved with the servable.
        self._layer = output.transform_features_layer()

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the transformed features of serialized raw ads, string [B]."""
        return self._layer(tf.io.parse_example(examples, self._spec))
