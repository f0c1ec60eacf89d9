"""Semantic IDs for ads and recommenders: tokenizers, a generative recommender and their export."""

import os

# TensorFlow Recommenders and TF Transform are built on tf_keras; our models are Keras 3. The
# variable must be set before anything touches `tf.keras`, so the package root is the place.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
