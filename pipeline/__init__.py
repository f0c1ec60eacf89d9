"""The TFX pipeline: configuration, graph, run functions and runners."""
