"""Adversarial networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from .. import datasets, weights
from ..losses import logistic_d_loss, nonsaturating_g_loss
from ..metrics.classifier import CASELESS, GlyphClassifier, in_batches, read_out
from ..metrics.frechet import frechet_distance
from ..networks.dcgan import Discriminator, Generator, sample
from ..training import Run, adam, make_accelerator, seed_everything, train
from ..training_gan import gan_step
from .base import Recipe, glyphs_data


@dataclass(frozen=True)
class DCGANGlyphs(Recipe):
    """The generator that chapter 08 loads: a DCGAN on grey glyphs 28 x 28, non-saturating loss; the EMA of G is what ships."""

    name: ClassVar[str] = "dcgan-glyphs"
    modules: ClassVar[tuple[str, ...]] = (
        *("genimg_lib.networks.dcgan", "genimg_lib.training", "genimg_lib.training_gan", "genimg_lib.datasets.glyphs"),
    )

    steps: int = 10_000  # updates of each player
    batch_size: int = 32  # real images, and as many fakes
    lr: float = 1e-3  # both players' step size, constant for half the updates, then linearly down to 0
    beta1: float = 0.5  # Adam's first decay rate
    latent_dim: int = 32  # dimensions of z
    width: int = 48  # channels of G's last hidden map
    width_D: int = 32  # channels of D's first map
    decay: float = 0.998  # of the average over G's updates

    def model(self) -> Generator:
        """The generator, untrained."""
        return Generator(self.latent_dim, self.width)

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        accelerator = make_accelerator()
        G, D = self.model(), Discriminator(self.width_D)
        optimizers = [adam(net.parameters(), self.lr, betas=(self.beta1, 0.999)) for net in (G, D)]
        G, D, opt_G, opt_D = accelerator.prepare(G, D, *optimizers)
        average = AveragedModel(accelerator.unwrap_model(G), multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        run = Run(repr(self), {"G": G, "D": D, "average": average}, {"G": opt_G, "D": opt_D})
        images = datasets.load("glyphs", seed=self.seed).images.to(accelerator.device)

        def step_fn(grey: Tensor) -> Mapping[str, Tensor]:
            for optimizer in (opt_G, opt_D):
                optimizer.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - run.step / self.steps))
            x = 2 * datasets.to_unit(grey) - 1
            loss_D, loss_G = gan_step(
                G, D, opt_G, opt_D, x, lambda: torch.randn(len(x), self.latent_dim, device=x.device),
                d_loss=lambda D, x, fake: logistic_d_loss(real_logits=D(x), fake_logits=D(fake)),
                g_loss=lambda D, x, fake: nonsaturating_g_loss(D(fake)), backward=accelerator.backward,
            )  # fmt: skip
            average.update_parameters(accelerator.unwrap_model(G))
            return {"loss_D": loss_D, "loss_G": loss_G}

        train(
            run, step_fn, images, steps=self.steps, batch_size=self.batch_size, seed=self.seed, accelerator=accelerator,
            directory=directory, progress=True,
        )  # fmt: skip
        update_bn((torch.randn(500, self.latent_dim, device=accelerator.device) for _ in range(10)), average)
        return average.module.cpu(), run.seconds

    def score(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, Generator)
        classifier = weights.load("glyph-classifier", GlyphClassifier())
        data = datasets.load("glyphs", split="test", n=4_000, fonts="train")
        reals = datasets.to_unit(data).split(2_000)
        fakes = sample(model, 2_000, torch.Generator().manual_seed(0))
        features = [in_batches(classifier.features, x) for x in (fakes, *reals)]
        score: dict[str, Any] = {}
        for key, x, found in (("", fakes, features[0]), ("_real", reals[1], features[2])):
            logits = in_batches(classifier, x)
            classes = read_out(logits, "caseless").bincount(minlength=len(CASELESS))
            score[f"sure{key}"] = round((caseless(logits).max(1).values >= 0.9).double().mean().item(), 4)
            score[f"classes{key}"] = int((classes >= 0.1 * len(x) / len(CASELESS)).sum())
            score[f"frechet{key}"] = round(frechet_distance(features[1], found).item(), 1)
        how = "2,000 unselected samples of seed 0, and beside them 2,000 real glyphs (training fonts, split test): share to "
        how += "which the classifier gives one of 36 characters, case ignored, with at least 0.9; characters that get at "
        return score | {"how": how + "least a tenth of 1/36; Fréchet feature distance to 2,000 other real glyphs"}

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=self.seed)


def caseless(logits: Tensor) -> Tensor:
    """Probabilities (B, 36) in the order of CASELESS from logits (B, 62): those of s and S added."""
    p = logits.softmax(1)
    return torch.cat([p[:, :10], p[:, 10:36] + p[:, 36:]], 1)
