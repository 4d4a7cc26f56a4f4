"""The models of chapter 12: colour images of the ten digits, grown, or drawn class by class."""

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
from ..losses import hinge_d_loss, hinge_g_loss, logistic_d_loss, nonsaturating_g_loss, orthogonal_penalty, zero_centred_penalty
from ..metrics.classifier import GlyphClassifier, in_batches, read_out
from ..metrics.frechet import frechet_distance
from ..networks.biggan import BigDiscriminator, BigGenerator
from ..networks.conditional import update_statistics
from ..networks.progressive import Given, ProgressiveDiscriminator, ProgressiveGenerator, at_stage
from ..training import Run, adam, make_accelerator, seed_everything, train
from ..training_gan import gan_step
from .base import Recipe, glyphs_data

DIGITS = "0123456789"
MODULES = ("genimg_lib.training", "genimg_lib.training_gan", "genimg_lib.datasets.glyphs")


def as_ink(x: Tensor) -> Tensor:
    """Colour images (B, 3, s, s) in [0, 1] of a glyph on paper -> how much ink there is, (B, 1, 28, 28) in [0, 1].

    The paper's colour is the median of the border's pixels, channel by channel; the ink's direction is the mean of what pixels
    differ from it, weighted by their squared length; the ink is a pixel's difference along it over the largest in the image,
    cut off below 0, resized (bicubic). The book's classifier reads it like a grey glyph.
    """
    border = torch.cat([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], -1)  # (B, 3, 4s)
    gap = x - border.median(-1).values[..., None, None]
    direction = F.normalize((gap * gap.square().sum(1, keepdim=True)).sum((2, 3)), dim=1)  # (B, 3)
    along = torch.einsum("bchw,bc->bhw", gap, direction).unsqueeze(1)
    ink = (along / along.amax((2, 3), keepdim=True).clamp_min(1e-6)).clamp(0, 1)
    return F.interpolate(ink, size=28, mode="bicubic", antialias=x.shape[-1] > 28, align_corners=False).clamp(0, 1)


def judge(fakes: Tensor, y: Tensor | None, reals: Tensor) -> dict[str, float]:
    """Scores of colour images in [0, 1] by what the book's classifier makes of their ink.

    "right": the share that shows the digit asked for in y; or, without y, "sure": the share to which one of the ten digits is
    given with at least 0.9, of 62 characters. "classes": digits that get at least 1 %. "frechet": feature distance to `reals`.
    """
    classifier = weights.load("glyph-classifier", GlyphClassifier())
    ink = as_ink(fakes)
    features = [in_batches(classifier.features, images) for images in (as_ink(reals), ink)]
    logits = in_batches(classifier, ink)
    right = read_out(logits, "digits") == y if y is not None else logits.softmax(1)[:, :10].amax(1) >= 0.9
    return {
        "sure" if y is None else "right": round(right.double().mean().item(), 4),
        "classes": int((read_out(logits, "digits").bincount(minlength=10) >= 0.01 * len(fakes)).sum()),
        "frechet": round(frechet_distance(*features).item(), 1),
    }


@dataclass(frozen=True)
class ColourGAN(Recipe):
    """What both have in common: 60,000 images, Adam without momentum, an average over G's updates that ships."""

    conditional: ClassVar[bool] = False  # whether G and D take labels
    batch_size: int = 16  # real images, and as many fakes
    lr_D: float = 2e-3  # D's step size; `lr` is G's; both constant, then linearly down to 0 over the last quarter
    beta1: float = 0.0  # Adam's first decay rate
    decay: float = 0.998  # of the average over G's updates
    latent_dim: int = 48  # dimensions of z
    size: int = 32  # pixels a side

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """G and D, untrained."""
        raise NotImplementedError

    def model(self) -> nn.Module:
        """The generator, untrained."""
        return self.networks()[0]

    def game(self, step: int, x: Tensor, y: Tensor, G: nn.Module, D: nn.Module) -> dict[str, Any]:
        """What `gan_step` is given for update number `step` on x in [-1, 1] of classes y, beside optimisers and noise."""
        raise NotImplementedError

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        seed_everything(self.seed)
        accelerator = make_accelerator()
        G, D = self.networks()
        optimizers = [adam(net.parameters(), lr, betas=(self.beta1, 0.99)) for net, lr in ((G, self.lr), (D, self.lr_D))]
        G, D, opt_G, opt_D = accelerator.prepare(G, D, *optimizers)
        average = AveragedModel(accelerator.unwrap_model(G), multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        run = Run(repr(self), {"G": G, "D": D, "average": average}, {"G": opt_G, "D": opt_D})
        data = datasets.load("glyphs", seed=self.seed, device=accelerator.device, **self.options())

        def step_fn(indices: Tensor) -> Mapping[str, Tensor]:
            for optimizer, lr in ((opt_G, self.lr), (opt_D, self.lr_D)):
                optimizer.param_groups[0]["lr"] = lr * min(1.0, 4 * (1 - run.step / self.steps))
            x = 2 * datasets.to_unit(data.images[indices]) - 1
            loss_D, loss_G = gan_step(
                **self.game(run.step, x, data.labels[indices], G, D), opt_G=opt_G, opt_D=opt_D, backward=accelerator.backward,
                sample_z=lambda: torch.randn(len(x), self.latent_dim, device=x.device),
            )  # fmt: skip
            average.update_parameters(accelerator.unwrap_model(G))
            return {"loss_D": loss_D, "loss_G": loss_G}

        train(
            run, step_fn, torch.arange(len(data), device=accelerator.device), steps=self.steps, batch_size=self.batch_size,
            seed=self.seed, accelerator=accelerator, directory=directory, progress=True,
        )  # fmt: skip
        return average.module.cpu(), run.seconds

    def score(self, model: nn.Module) -> dict[str, Any]:
        data = datasets.load("glyphs", split="test", n=4_000, fonts="train", **self.options())
        reals, labels = datasets.to_unit(data).split(2_000), data.labels.split(2_000)
        z, y = torch.randn(2_000, self.latent_dim, generator=torch.Generator().manual_seed(0)), torch.arange(2_000) % 10
        with torch.no_grad():
            pairs = zip(z.split(500), y.split(500), strict=True)
            fakes = torch.cat([model(*pair[: 1 + self.conditional]) for pair in pairs]).add(1).div(2).clamp(0, 1)
        score = judge(fakes, y if self.conditional else None, reals[0])
        ceiling = judge(reals[1], labels[1] if self.conditional else None, reals[0])
        how = "recipes.scaling.judge on 2,000 unselected samples of seed 0 (200 a class, if there are classes) and, '_real', "
        how += "on 2,000 real images (training fonts, split test); Fréchet feature distance to 2,000 other real images"
        return score | {f"{key}_real": value for key, value in ceiling.items()} | {"how": how}

    def options(self) -> dict[str, Any]:
        """Of the data."""
        return {"size": self.size, "color": True, "characters": DIGITS}

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=self.seed, **self.options())


@dataclass(frozen=True)
class ProgressiveColour(ColourGAN):
    """A generator grown from 4 x 4 to 32 x 32, colour digits: non-saturating loss and R1; every level fades in, then rests."""

    name: ClassVar[str] = "progressive-colour"
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.networks.progressive", *MODULES)

    steps: int = 16_000  # updates of each player
    lr: float = 4e-3  # G's step size: of stored weights N(0, 1), so 0.4 % of them
    lr_D: float = 4e-3
    shares: tuple[int, ...] = (1, 2, 3, 6)  # of the updates, for each level; the first half of a level fades it in
    gamma: float = 0.1  # of R1, (γ/2) ‖∇D‖²
    lazy: int = 4  # R1 is added, times 4, at every 4th update

    def networks(self) -> tuple[nn.Module, nn.Module]:
        return ProgressiveGenerator(self.latent_dim), ProgressiveDiscriminator()

    def stage(self, step: int) -> tuple[int, float]:
        """(level, alpha) of an update."""
        position, level = step * sum(self.shares) / self.steps, 0
        while position >= self.shares[level]:
            position, level = position - self.shares[level], level + 1
        return level, 1.0 if level == 0 else min(1.0, 2 * position / self.shares[level])

    def game(self, step: int, x: Tensor, y: Tensor, G: nn.Module, D: nn.Module) -> dict[str, Any]:
        stage = self.stage(step)
        weight = self.gamma / 2 * self.lazy if step % self.lazy == 0 else 0.0

        def d_loss(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
            loss = logistic_d_loss(real_logits=D(x), fake_logits=D(fake))
            return loss + weight * zero_centred_penalty(D, x) if weight else loss

        return {
            "G": Given(G, *stage), "D": Given(D, *stage), "x": at_stage(x, *stage),
            "d_loss": d_loss, "g_loss": lambda D, x, fake: nonsaturating_g_loss(D(fake)),
        }  # fmt: skip


@dataclass(frozen=True)
class BigGANColour(ColourGAN):
    """A class-conditional residual GAN with self-attention on colour digits 16 x 16: hinge loss, spectral norm in D."""

    name: ClassVar[str] = "biggan-colour"
    conditional: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.networks.biggan", *MODULES)

    steps: int = 10_000  # updates of each player
    lr: float = 2e-3  # G's step size
    size: int = 16
    width: int = 16  # channels of the last map, in units of which the others count
    orthogonal: float = 1e-4  # of BigGAN's penalty on G's weights

    def networks(self) -> tuple[nn.Module, nn.Module]:
        return BigGenerator(10, self.latent_dim, self.width, self.size), BigDiscriminator(10, self.width, self.size)

    def game(self, step: int, x: Tensor, y: Tensor, G: nn.Module, D: nn.Module) -> dict[str, Any]:
        matrices = [w for name, w in G.named_parameters() if w.dim() > 1 and "embed" not in name]

        def g_loss(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
            return hinge_g_loss(D(fake)) + self.orthogonal * sum(orthogonal_penalty(w, diagonal=False) for w in matrices)

        return {
            "G": Given(G, y), "D": Given(D, y), "x": x, "g_loss": g_loss,
            "d_loss": lambda D, x, fake: hinge_d_loss(real_logits=D(x), fake_logits=D(fake)),
        }  # fmt: skip

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        G, seconds = super().fit(directory)
        draw = torch.Generator().manual_seed(self.seed)
        update_statistics(G, ((torch.randn(500, self.latent_dim, generator=draw), torch.arange(500) % 10) for _ in range(20)))
        return G, seconds
