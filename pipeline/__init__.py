"""The TFX pipeline: configuration, graph, run functions and runners."""

import warnings

import sid_tfx  # noqa: F401 - sets TF_USE_LEGACY_KERAS before TFX touches `tf.keras`

# Python 3.10 is the newest that TFX 1.16 runs on; Google's libraries say so at every import.
warnings.filterwarnings("ignore", "You are using a non-supported Python version", FutureWarning)
