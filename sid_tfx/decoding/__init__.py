"""Constrained decoding: a prefix trie of the catalogue and a beam search inside the graph.

Nothing in here knows the model: the search takes a function from prefixes (and a state per beam) to
log-probabilities.
"""

from sid_tfx.decoding.beam_search import BeamResult, BeamState, beam_search
from sid_tfx.decoding.trie import PrefixTrie

__all__ = ["BeamResult", "BeamState", "PrefixTrie", "beam_search"]
