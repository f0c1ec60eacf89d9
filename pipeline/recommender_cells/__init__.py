"""The cells of `evaluate recommender --seeds`: every method, seed and split, each trained once."""
