"""Tests of the TFX components."""
