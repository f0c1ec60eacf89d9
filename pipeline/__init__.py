"""The TFX pipeline: configuration, graph, run functions and runners."""

import sid_tfx  # noqa: F401 - sets TF_USE_LEGACY_KERAS before TFX touches `tf.keras`
