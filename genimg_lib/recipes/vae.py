"""Variational auto-encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import datasets
from ..datasets.files import SHA256
from ..distributions import kl_diagonal_gaussian, log_bernoulli, log_normal, log_standard_normal, reparameterize
from ..losses import bernoulli_nll, iwae_bound
from ..networks import MLPVAE
from ..training import seed_everything, vae_step
from .base import BINARISATION, Recipe, glyphs_data


@dataclass(frozen=True)
class VAEGlyphs(Recipe):
    """The VAE that chapter 04 loads: fully connected, on glyphs 28 x 28 binarised anew for every batch."""

    name: ClassVar[str] = "vae-glyphs"
    modules: ClassVar[tuple[str, ...]] = (*Recipe.modules, "genimg_lib.datasets.glyphs")

    steps: int = 20_000  # updates
    hidden: tuple[int, ...] = (144,)  # widths of the hidden layers
    latent_dim: int = 32  # dimensions of z

    def model(self) -> MLPVAE:
        """The network, untrained."""
        return MLPVAE(hidden=self.hidden, latent_dim=self.latent_dim)

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        return self._train(self.model(), vae_step, datasets.load("glyphs", seed=self.seed).images, directory)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, Any]:
        means = {}
        for key, fonts in (("negative_elbo_nats", "train"), ("negative_elbo_new_fonts_nats", "test")):
            generator = torch.Generator().manual_seed(0)
            x = datasets.binarize(datasets.to_unit(datasets.load("glyphs", split="test", fonts=fonts)), generator)
            logits, mu, logvar, _ = model(x, generator)
            loss = bernoulli_nll(logits=logits, x=x) + kl_diagonal_gaussian(mu, logvar)  # (10000,)
            means[key] = round(loss.mean().item(), 3)
        how = "mean over 10,000 glyphs, split test, of the training fonts and of the held-out ones; "
        how += "binarised, one z each, seed 0"
        return means | {"how": how}

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=self.seed, binarisation=BINARISATION)


class ImportanceWeights(nn.Module):
    """forward(x) -> log w (k, B), nats: log p(x, z) - log q(z|x) of k samples z of a VAE's posterior for each image."""

    def __init__(self, vae: MLPVAE, k: int) -> None:
        super().__init__()
        self.vae, self.k = vae, k

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) in {0, 1} -> (k, B)."""
        mu, logvar = (value.expand(self.k, *value.shape) for value in self.vae.encode(x))
        z = reparameterize(mu, logvar)  # (k, B, latent_dim)
        log_joint = log_bernoulli(x.flatten(1), self.vae.decode(z).flatten(2)) + log_standard_normal(z)
        return log_joint - log_normal(z, mu, logvar)


@dataclass(frozen=True)
class IWAEMnist(Recipe):
    """An importance weighted auto-encoder on MNIST, one stochastic layer (Burda et al. 2016); k = 1 is the VAE.

    `bench/` holds the long, faster runs that are compared with the paper's Table 1.
    """

    name: ClassVar[str] = "iwae-mnist"

    steps: int = 50_000  # updates
    batch_size: int = 20  # images, as in the paper
    k: int = 5  # importance samples in the bound
    samples: int = 5000  # importance samples of the test NLL
    test_images: int = 1000  # of MNIST's 10,000, for the score

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        model = ImportanceWeights(MLPVAE(hidden=(200, 200), latent_dim=50, activation=nn.Tanh), self.k)
        return self._train(model, iwae_step, datasets.load("mnist").images, directory)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        seed_everything(0)
        x = datasets.binarize(datasets.to_unit(datasets.load("mnist", split="test", n=self.test_images)), generator)
        rounds = math.ceil(self.samples / self.k)
        log_w = torch.stack([iwae_bound(model(x)) for _ in range(rounds)])  # (rounds, B): each the mean of k weights
        how = f"mean over {self.test_images} test images, binarised with seed 0, of -log mean of {rounds * self.k} weights"
        return {"negative_log_likelihood_nats": round(-iwae_bound(log_w).mean().item(), 3), "how": how}

    def data(self) -> dict[str, Any]:
        files = {file: sha for file, sha in SHA256.items() if file.startswith("mnist/") and "images" in file}
        return {"name": "mnist", "options": {"binarisation": BINARISATION}, "sha256": files}


def iwae_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, accelerator: Any) -> dict[str, Tensor]:
    """One update towards a higher log (1/k) sum w, the gradient through all k samples; the loss is its mean, nats per image."""
    loss = -iwae_bound(model(x)).mean()
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    return {"loss": loss.detach()}
