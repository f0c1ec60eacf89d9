"""Constrained decoding: a prefix trie of the catalogue and a beam search inside the graph.

Nothing in here knows the model: the search takes a function from prefixes to log-probabilities.
"""

from sid_tfx.decoding.beam_search import BeamResult, beam_search
from sid_tfx.decoding.trie import PrefixTrie

__all__ = ["BeamResult", "PrefixTrie", "beam_search"]
