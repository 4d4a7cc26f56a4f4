"""Adversarial networks that are told the class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import datasets, weights
from ..datasets.glyphs import ALPHABET
from ..losses import logistic_d_loss, nonsaturating_g_loss, zero_centred_penalty
from ..metrics.classifier import CASELESS, GlyphClassifier, in_batches, read_out
from ..networks.conditional import Generator, ProjectionDiscriminator, sample, update_statistics
from ..training import Run, adam, make_accelerator, seed_everything, train
from ..training_gan import frozen
from .base import Recipe, glyphs_data


class _TwoHeads(nn.Module):
    """(x, y) -> logits (B,) and class logits (B, classes) of a ProjectionDiscriminator, from one pass over x."""

    def __init__(self, D: ProjectionDiscriminator) -> None:
        super().__init__()
        self.D = D

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.D.features(x)
        return self.D.logits(phi, y), self.D.head(phi)


@dataclass(frozen=True)
class ConditionalGlyphs(Recipe):
    """The generator that chapter 11 loads: a class-conditional GAN on grey glyphs 28 x 28 of 36 characters, case ignored."""

    name: ClassVar[str] = "conditional-glyphs"
    modules: ClassVar[tuple[str, ...]] = (
        *("genimg_lib.networks.conditional", "genimg_lib.training", "genimg_lib.training_gan", "genimg_lib.datasets.glyphs"),
    )
    classes: ClassVar[int] = len(CASELESS)

    steps: int = 6_500  # updates of each player
    batch_size: int = 64  # real images, and as many fakes, with the same labels
    lr: float = 1e-3  # both players' step size, constant for half the updates, then linearly down to 0
    beta1: float = 0.0  # Adam's first decay rate
    latent_dim: int = 32  # dimensions of z
    embed_dim: int = 24  # numbers for the class, beside z
    width: int = 32  # channels of G's last hidden map
    width_D: int = 32  # channels of D's first map
    gamma: float = 0.5  # of R1, (γ/2) times the squared gradient at real images, added at every eighth update, eight times
    auxiliary: float = 0.5  # weight of -log p(y|x) of the fakes in G's loss; D's head learns it from the real images alone
    decay: float = 0.998  # of the average over G's updates

    def model(self) -> Generator:
        """The generator, untrained."""
        return Generator(self.classes, self.latent_dim, self.width, embed_dim=self.embed_dim)

    def real(self, split: str) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 1, 28, 28) and labels (N,): real ones, those of "test" of the same fonts but never trained on."""
        data = datasets.load("glyphs", split=split, seed=self.seed, fonts="train")
        return data.images, torch.tensor([CASELESS.index(c.upper()) for c in ALPHABET])[data.labels]

    def read(self, x: Tensor) -> Tensor:
        """The class (N,) that a classifier, which the training never saw, reads in images (N, 1, 28, 28) in [0, 1]."""
        return read_out(in_batches(weights.load("glyph-classifier", GlyphClassifier()), x), "caseless")

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        accelerator = make_accelerator()
        images, labels = (part.to(accelerator.device) for part in self.real("train"))
        G, D = self.model(), _TwoHeads(ProjectionDiscriminator(self.classes, self.width_D))
        for net in (G, D):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
        optimizers = [adam(net.parameters(), self.lr, betas=(self.beta1, 0.999)) for net in (G, D)]
        G, D, opt_G, opt_D = accelerator.prepare(G, D, *optimizers)
        average = AveragedModel(accelerator.unwrap_model(G), multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        run = Run(repr(self), {"G": G, "D": D, "average": average}, {"G": opt_G, "D": opt_D})

        def step_fn(index: Tensor) -> Mapping[str, Tensor]:
            opt_G.param_groups[0]["lr"] = opt_D.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - run.step / self.steps))
            x, y = 2 * datasets.to_unit(images[index]) - 1, labels[index]
            fake = G(torch.randn(len(y), self.latent_dim, device=x.device), y)  # for both players: a draw fewer
            logits, class_logits = D(torch.cat([x, fake.detach()]), y.repeat(2))
            loss_D = logistic_d_loss(real_logits=logits[: len(y)], fake_logits=logits[len(y) :])
            class_loss = F.cross_entropy(class_logits[: len(y)], y)
            penalty = zero_centred_penalty(lambda x: D(x, y)[0], x) if run.step % 8 == 0 else 0.0
            opt_D.zero_grad()
            accelerator.backward(loss_D + class_loss + 8 * self.gamma / 2 * penalty)
            opt_D.step()
            with frozen(D):
                logits, class_logits = D(fake, y)
                loss_G = nonsaturating_g_loss(logits)
                opt_G.zero_grad()
                accelerator.backward(loss_G + self.auxiliary * F.cross_entropy(class_logits, y))
            opt_G.step()
            average.update_parameters(accelerator.unwrap_model(G))
            return {"loss_D": loss_D.detach(), "loss_G": loss_G.detach(), "class_loss": class_loss.detach()}

        train(
            run, step_fn, torch.arange(len(images), device=accelerator.device), steps=self.steps, batch_size=self.batch_size,
            seed=self.seed, accelerator=accelerator, directory=directory, progress=True,
        )  # fmt: skip
        y = torch.arange(self.classes, device=accelerator.device).repeat(14)
        update_statistics(average, ((torch.randn(len(y), self.latent_dim, device=y.device), y) for _ in range(10)))
        return average.module.cpu(), run.seconds

    def judge(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Score of images (N, 1, 28, 28) in [0, 1] meant as y (N,): class after class, each equally often."""
        by_class = (self.read(x) == y).double().view(self.classes, -1).mean(1)
        values = by_class.mean(), by_class.min(), x.view(self.classes, len(x) // self.classes, -1).std(1).mean()
        return {key: round(v.item(), 4) for key, v in zip(("right", "right_worst", "spread"), values, strict=True)}

    def score(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, Generator)
        y = torch.arange(self.classes).repeat_interleave(n := 2_000 // self.classes)
        score: dict[str, Any] = self.judge(sample(model, y, torch.Generator().manual_seed(0)), y)
        images, labels = self.real("test")
        first = torch.cat([(labels == k).nonzero().flatten()[:n] for k in range(self.classes)])
        score |= {f"{key}_real": value for key, value in self.judge(datasets.to_unit(images[first]), y).items()}
        how = f"{n} unselected samples a class, of seed 0, and as many real images of the test split: share where a classifier "
        how += "that the training never used reads the class asked for, of all and of the worst class; standard deviation of a "
        return score | {"how": how + "pixel in [0, 1] within a class, mean over pixels and classes"}

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=self.seed)
