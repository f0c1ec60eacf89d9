"""TokenizerTrainer: trains the joint encoder and quantizer."""

from components.tokenizer_trainer.component import TokenizerTrainer

__all__ = ["TokenizerTrainer"]
