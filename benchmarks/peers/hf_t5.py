"""Hugging Face `generate` over a T5: `python -m benchmarks.peers.hf_t5 FOLDER`."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.peers import harness
from benchmarks.peers.generation import Job, Request


class HuggingFaceT5:
    """Constrained generation as one writes it: a prefix dictionary, looked up beam by beam."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        size = job.size
        assert size is not None
        config = transformers.T5Config(
            vocab_size=job.tokens,
            d_model=size.d_model,
            d_kv=size.d_kv,
            d_ff=size.d_ff,
            num_heads=size.num_heads,
            num_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            feed_forward_proj="relu",
            pad_token_id=0,
            eos_token_id=None,
            decoder_start_token_id=0,
        )
        self._model = transformers.T5ForConditionalGeneration(config).eval()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.parameters = sum(p.numel() for p in self._model.parameters())
        items = job.item_tokens()
        self._levels = items.shape[1]
        self._children: dict[tuple[int, ...], list[int]] = {}
        for item in np.unique(items, axis=0).tolist():
            for level, token in enumerate(item):
                allowed = self._children.setdefault(tuple(item[:level]), [])
                if not allowed or allowed[-1] != token:
                    allowed.append(token)
        self._items = {tuple(item): row for row, item in enumerate(items.tolist())}
        histories = np.load(job.folder / "histories.npy")
        padded = np.concatenate([np.zeros_like(items[:1]), items])
        self._inputs = torch.from_numpy(padded[histories].reshape(len(histories), -1))
        self._turn = itertools.count()

    def _allowed(self, _: int, sequence: torch.Tensor) -> list[int]:
        return self._children[tuple(sequence[1:].tolist())]

    @torch.inference_mode()
    def run(self, task: str) -> dict[str, Any]:
        """Answers the next users; milliseconds, and how many distinct ads each got at least."""
        request = Request.from_task(task)
        turns = len(self._inputs) // request.batch
        start = next(self._turn) % turns * request.batch
        inputs = self._inputs[start : start + request.batch]
        begin = time.perf_counter()
        found = self._model.generate(
            inputs,
            attention_mask=(inputs > 0).long(),
            num_beams=request.beam,
            num_return_sequences=request.k,
            max_new_tokens=self._levels,
            min_new_tokens=self._levels,
            do_sample=False,
            prefix_allowed_tokens_fn=self._allowed,
        )
        codes = found[:, 1:].numpy()
        milliseconds = 1e3 * (time.perf_counter() - begin)
        rows = np.array([self._items[tuple(item)] for item in codes.tolist()])
        distinct = min(len(set(part)) for part in rows.reshape(request.batch, -1).tolist())
        return {"milliseconds": [milliseconds], "distinct": distinct}


if __name__ == "__main__":
    harness.serve(HuggingFaceT5(Job.load(Path(sys.argv[1]))))
