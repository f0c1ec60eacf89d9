"""Ingest of ads and events: any file format in, canonical raw tf.Examples out."""
