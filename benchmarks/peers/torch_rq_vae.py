"""The same RQ-VAE in plain PyTorch: `python -m benchmarks.peers.torch_rq_vae FOLDER`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers import harness

_COMMITMENT = 0.25


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Dense layers with ReLU between them."""
    layers: list[nn.Module] = []
    for size, width in itertools.pairwise(widths):
        layers += [nn.Linear(size, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def squared_error(ours: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The squared distance of rows, averaged over them."""
    return (ours - given).square().sum(1).mean()


class RqVae(nn.Module):
    """RQ-VAE (arXiv 2203.01941, arXiv 2305.05065): straight-through, codebook and commitment."""

    def __init__(self, size: int, job: harness.Job) -> None:
        super().__init__()
        widths = [size, *job.hidden, job.code_dim]
        self.encoder = perceptron(widths)
        self.decoder = perceptron(widths[::-1])
        shape = (job.levels, job.codebook_size, job.code_dim)
        self.codebooks = nn.Parameter(torch.randn(shape) / job.code_dim**0.5)

    @torch.no_grad()
    def initialize(self, vectors: torch.Tensor) -> None:
        """Sets the codebooks to residuals of vectors; random codebooks collapse at once."""
        residual = self.encoder(vectors)
        for book in self.codebooks:
            book.copy_(residual[torch.arange(len(book)) % len(residual)])
            residual = residual - book[torch.cdist(residual, book).argmin(1)]
            residual = residual[torch.randperm(len(residual))]

    def quantize(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns codes [B, L], what they stand for [B, code_dim], and the loss."""
        residual, codes, loss = z, [], z.new_zeros(())
        total = torch.zeros_like(z)
        for book in self.codebooks:
            with torch.no_grad():
                # The square of the residual is the same for all codes.
                costs = torch.addmm(book.square().sum(1), residual, book.t(), alpha=-2)
                code = costs.argmin(1)
            vector = functional.embedding(code, book)
            if self.training:
                loss = loss + squared_error(vector, residual.detach())
                loss = loss + _COMMITMENT * squared_error(residual, vector.detach())
            total = total + vector.detach()
            residual = residual - vector.detach()
            codes.append(code)
        return torch.stack(codes, dim=1), z + (total - z).detach(), loss

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the loss of a batch."""
        _, quantized, loss = self.quantize(self.encoder(vectors))
        return squared_error(self.decoder(quantized), vectors) + loss


class TorchRqVae(harness.Subject):
    """The training loop and the encoding loop as one writes them."""

    def __init__(self, job: harness.Job) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self._job = job
        self._vectors = torch.from_numpy(job.vectors())
        self._model = RqVae(self._vectors.shape[1], job)
        self._model.initialize(self._vectors[torch.randperm(len(self._vectors))])
        # One kernel for all parameters, the fastest there is on a CPU.
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=job.learning_rate,
            weight_decay=job.weight_decay,
            fused=True,
        )
        self.version = torch.__version__
        self.parameters = sum(p.numel() for p in self._model.parameters())

    def train(self) -> float:
        self._model.train()
        loss = torch.zeros(())
        rows = len(self._vectors)
        for _ in range(2 * self._job.epochs):
            order = torch.randperm(rows)
            for start in range(0, rows, self._job.batch_rows):
                batch = self._vectors[order[start : start + self._job.batch_rows]]
                loss = self._model(batch)
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def encode(self) -> np.ndarray:
        self._model.eval()
        codes, embeddings = [], []
        for batch in self._vectors.split(self._job.batch_rows):
            z = self._model.encoder(batch)
            codes.append(self._model.quantize(z)[0].numpy())
            embeddings.append(functional.normalize(z, dim=1).numpy())
        np.concatenate(embeddings)
        return np.concatenate(codes)


if __name__ == "__main__":
    harness.serve(TorchRqVae(harness.Job.load(Path(sys.argv[1]))))
