"""Trainings by name. A recipe is a frozen dataclass; `genimg train NAME` runs it, any field can be set on the command line."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import datasets, weights
from .checkpoints import CheckpointError, latest
from .datasets.files import SHA256
from .datasets.glyphs import ATLAS
from .distributions import kl_diagonal_gaussian, log_bernoulli, log_normal, log_standard_normal, reparameterize
from .losses import bernoulli_nll, iwae_bound
from .metrics import classifier
from .networks import MLPVAE
from .provenance import collect
from .training import Run, adam, make_accelerator, seed_everything, train, vae_step

BINARISATION = "stochastic, anew for each batch"


@dataclass(frozen=True)
class Recipe:
    """What every recipe has: how long, how fast, from which seed; `name` and what it trains are the subclass's."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.networks.vae", "genimg_lib.training")  # whose source decides the result

    steps: int  # updates
    batch_size: int = 128  # images
    lr: float = 1e-3  # Adam's step size, constant for half the updates, then linearly down to 0
    seed: int = 0

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        """The trained model and the seconds it took; checkpoints in `directory`."""
        raise NotImplementedError

    def score(self, model: nn.Module) -> dict[str, Any]:
        """What the weights' JSON carries, with how it is measured."""
        raise NotImplementedError

    def data(self) -> dict[str, Any]:
        """The data's name, options and SHA-256."""
        raise NotImplementedError

    def command(self) -> str:
        """The command that runs exactly this recipe."""
        words = ["genimg train", self.name]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                given = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words.append(f"--{field.name.replace('_', '-')} {given}")
        return " ".join(words)

    def run(self, out: Path, resume: bool = False) -> Path:
        """Train, score, write out/NAME.safetensors and out/NAME.json. Raises CheckpointError if `resume` does not fit `out`."""
        directory = out / self.name
        found = latest(directory)
        if found and not resume:
            raise CheckpointError(f"{found} is there already: add --resume to go on from it, or choose another --out")
        if resume and not found:
            raise CheckpointError(f"nothing to resume: no checkpoint in {directory}; leave --resume out, or correct --out")
        model, seconds = self.fit(directory)
        block = collect(
            command=self.command(), seed=self.seed, data=self.data(), steps=self.steps, seconds=seconds, modules=self.modules
        )
        block["recipe"] = asdict(self)
        return weights.store(self.name, model, block, self.score(model.eval()), out)

    def _train(
        self, model: nn.Module, step: Callable[..., Mapping[str, Tensor]], images: Tensor, directory: Path
    ) -> tuple[nn.Module, float]:
        """`train` with `step(model, optimizer, x, accelerator)`, images binarised anew, and the step size described above."""
        accelerator = make_accelerator()
        prepared, optimizer = accelerator.prepare(model, adam(model.parameters(), self.lr))
        run = Run(repr(self), {"model": prepared}, {"adam": optimizer})

        def step_fn(grey: Tensor) -> Mapping[str, Tensor]:
            optimizer.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - run.step / self.steps))
            return step(prepared, optimizer, datasets.binarize(datasets.to_unit(grey)), accelerator)

        train(
            run, step_fn, images.to(accelerator.device), steps=self.steps, batch_size=self.batch_size, seed=self.seed,
            accelerator=accelerator, directory=directory, progress=True,
        )  # fmt: skip
        return model.cpu(), run.seconds


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
        options = {"n": 60_000, "size": 28, "fonts": "train", "seed": self.seed, "binarisation": BINARISATION}
        return {"name": "glyphs", "options": options, "atlas_sha256": hashlib.sha256(ATLAS.read_bytes()).hexdigest()}


@dataclass(frozen=True)
class GlyphClassifierRecipe(Recipe):
    """The book's own classifier and feature network. It keeps no checkpoints."""

    name: ClassVar[str] = "glyph-classifier"
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.metrics.classifier",)

    steps: int = 3000  # updates
    lr: float = 3e-3  # the largest of a one-cycle schedule
    seed: int = 1

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        start = time.perf_counter()
        model = classifier.train_classifier(steps=self.steps, batch_size=self.batch_size, lr=self.lr, seed=self.seed)
        return model, time.perf_counter() - start

    def score(self, model: nn.Module) -> dict[str, Any]:
        return classifier.evaluate_classifier(model)

    def data(self) -> dict[str, Any]:
        options = {"n": 60_000, "size": 28, "fonts": "train", "seed": f"{self.seed} and up, a new one every 60,000 images"}
        return {"name": "glyphs", "options": options, "atlas_sha256": hashlib.sha256(ATLAS.read_bytes()).hexdigest()}


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


RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (VAEGlyphs, GlyphClassifierRecipe, IWAEMnist)}


def find(name: str) -> type[Recipe]:
    """The recipe of this name. Raises ValueError, with the nearest name, if there is none."""
    if name not in RECIPES:
        near = get_close_matches(name.lower(), RECIPES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no recipe is called {name!r}: {hint}expected one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
