"""Composer: one generation of tokenizer, catalogue, index and recommender as two servables."""

from components.composer.component import Composer

__all__ = ["Composer"]
