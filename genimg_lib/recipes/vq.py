"""Auto-encoders with discrete latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import datasets
from ..losses import bernoulli_nll
from ..networks.vq import VQVAE, ema_update, perplexity, revive, vq_terms
from ..training import seed_everything
from .base import BINARISATION, Recipe, glyphs_data


@dataclass(frozen=True)
class VQVAEGlyphs(Recipe):
    """The VQ-VAE of chapters 04 and 15: convolutional, 7 x 7 codes an image, on glyphs binarised anew for every batch."""

    name: ClassVar[str] = "vqvae-glyphs"
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.networks.vq", "genimg_lib.training", "genimg_lib.datasets.glyphs")

    steps: int = 6_000  # updates
    batch_size: int = 32  # images
    lr: float = 3e-3
    codes: int = 32  # entries of the codebook, K
    code_dim: int = 8  # numbers in an entry, D
    width: int = 32  # channels of the outer convolutions
    commitment: float = 0.25  # weight of the commitment term
    decay: float = 0.99  # of the codebook's running means

    def model(self) -> VQVAE:
        """The network, untrained."""
        return VQVAE(codes=self.codes, code_dim=self.code_dim, width=self.width)

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        return self._train(self.model(), self._step, datasets.load("glyphs", seed=self.seed).images, directory)

    def _step(self, model: VQVAE, optimizer: torch.optim.Optimizer, x: Tensor, accelerator: Any) -> dict[str, Tensor]:
        """One update of encoder and decoder by gradient, and of the codebook by running means; entries out of use revived."""
        logits, h, e, indices = model(x)
        nll, commitment = bernoulli_nll(logits=logits, x=x), vq_terms(h, e)[1]  # (B,)
        loss = (nll + self.commitment * commitment).mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        ema_update(model.codebook, model.counts, model.sums, h, indices, self.decay)
        revive(model.codebook, model.counts, model.sums, h)
        return {"loss": loss.detach(), "nll": nll.detach().mean(), "commitment": commitment.detach().mean()}

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, VQVAE)
        score = {"code_rate_uniform_nats": round(math.prod(model.code_shape) * math.log(self.codes), 3)}
        for key, fonts in (("", "train"), ("_new_fonts", "test")):
            generator = torch.Generator().manual_seed(0)
            x = datasets.binarize(datasets.to_unit(datasets.load("glyphs", split="test", fonts=fonts)), generator)
            nll, indices = zip(*(self._look(model, part) for part in x.split(500)), strict=True)
            score[f"reconstruction{key}_nats"] = round(torch.cat(nll).mean().item(), 3)
            score[f"perplexity{key}"] = round(perplexity(torch.cat(indices), self.codes).item(), 3)
        how = (
            "-log p(x|codes), mean over 10,000 glyphs, split test, of the training fonts and of the held-out ones, binarised, "
        )
        return score | {"how": how + "seed 0; perplexity of their pooled codes; rate of the codes under a uniform prior"}

    @staticmethod
    def _look(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, _, _, indices = model(x)
        return bernoulli_nll(logits=logits, x=x), indices

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=self.seed, binarisation=BINARISATION)
