"""Autoregressive models: of the pixels, and of a VQ-VAE's codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import datasets, weights
from ..networks.autoregressive import PixelCNN
from ..training import seed_everything
from .base import BINARISATION, Recipe, glyphs_data
from .vq import VQVAEGlyphs


def likelihood_step(
    model: nn.Module, log_prob: Any, optimizer: torch.optim.Optimizer, x: Tensor, accelerator: Any
) -> dict[str, Tensor]:
    """One update towards a higher mean of log_prob(x) (B,); the loss is minus it, nats per image."""
    loss = -log_prob(x).mean()
    optimizer.zero_grad()
    accelerator.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 30.0)
    optimizer.step()
    return {"loss": loss.detach()}


@dataclass(frozen=True)
class PixelCNNGlyphs(Recipe):
    """The masked-convolution model of chapter 15, on glyphs 28 x 28 binarised anew for every batch."""

    name: ClassVar[str] = "pixelcnn-glyphs"
    modules: ClassVar[tuple[str, ...]] = (
        "genimg_lib.networks.autoregressive", "genimg_lib.training", "genimg_lib.datasets.glyphs"
    )  # fmt: skip

    steps: int = 2_400  # updates
    batch_size: int = 32  # images
    lr: float = 4e-3
    channels: int = 12
    layers: int = 4  # after the first
    reach: int = 5  # pixels, of the first layer

    def model(self) -> PixelCNN:
        """The network, untrained."""
        return PixelCNN(2, self.channels, self.layers, self.reach)

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        return self._train(self.model(), self._step, datasets.load("glyphs", seed=self.seed).images, directory)

    @staticmethod
    def _step(model: PixelCNN, optimizer: torch.optim.Optimizer, x: Tensor, accelerator: Any) -> dict[str, Tensor]:
        return likelihood_step(model, lambda x: model.log_prob(x[:, 0].long()), optimizer, x, accelerator)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, PixelCNN)
        means = {}
        for key, fonts in (("nll_nats", "train"), ("nll_new_fonts_nats", "test")):
            generator = torch.Generator().manual_seed(0)
            x = datasets.binarize(datasets.to_unit(datasets.load("glyphs", split="test", fonts=fonts)), generator)
            nll = torch.cat([-model.log_prob(part[:, 0].long()) for part in x[:2000].split(250)])
            means[key] = round(nll.mean().item(), 3)
        how = "exact, mean over the first 2,000 glyphs, split test, of the training fonts and of the held-out ones; "
        return means | {"how": how + "binarised with seed 0"}

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=self.seed, binarisation=BINARISATION)


@dataclass(frozen=True)
class VQPriorGlyphs(Recipe):
    """The prior over the codes of the shipped `vqvae-glyphs`: a PixelCNN of 7 x 7 places with 32 symbols."""

    name: ClassVar[str] = "vqprior-glyphs"
    modules: ClassVar[tuple[str, ...]] = (*PixelCNNGlyphs.modules, "genimg_lib.networks.vq")

    steps: int = 2_000  # updates
    batch_size: int = 64  # images
    lr: float = 4e-3
    channels: int = 24
    layers: int = 3  # after the first
    reach: int = 3  # places, of the first layer

    def model(self) -> PixelCNN:
        """The network, untrained."""
        return PixelCNN(VQVAEGlyphs().codes, self.channels, self.layers, self.reach)

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        vqvae = weights.load("vqvae-glyphs", VQVAEGlyphs().model())

        def step(model: PixelCNN, optimizer: torch.optim.Optimizer, x: Tensor, accelerator: Any) -> dict[str, Tensor]:
            with torch.no_grad():
                codes = vqvae.indices(x)
            return likelihood_step(model, model.log_prob, optimizer, codes, accelerator)

        return self._train(self.model(), step, datasets.load("glyphs", seed=self.seed).images, directory)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, PixelCNN)
        vqvae = weights.load("vqvae-glyphs", VQVAEGlyphs().model())
        score: dict[str, Any] = {"uniform_nats": round(math.prod(vqvae.code_shape) * math.log(vqvae.codes), 3)}
        for key, fonts in (("codes_nats", "train"), ("codes_new_fonts_nats", "test")):
            generator = torch.Generator().manual_seed(0)
            x = datasets.binarize(datasets.to_unit(datasets.load("glyphs", split="test", fonts=fonts)), generator)
            nll = torch.cat([-model.log_prob(vqvae.indices(part)) for part in x[:2000].split(250)])
            score[key] = round(nll.mean().item(), 3)
        how = "-log p(codes), mean over the first 2,000 glyphs, split test, of the training fonts and of the held-out ones; "
        return score | {"how": how + "binarised with seed 0; beside it a uniform prior"}

    def data(self) -> dict[str, Any]:
        return glyphs_data(
            seed=self.seed, binarisation=BINARISATION, codes=weights.provenance("vqvae-glyphs")["weights_sha256"]
        )
