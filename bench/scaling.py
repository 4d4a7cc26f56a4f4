"""What helps a larger GAN, at a small size: colour digits, one ingredient changed at a time, three seeds.

    python -m bench.scaling            # all kinds; a seed whose result file is present is skipped
    python -m bench.scaling 0 4        # some, by number

One thread. 16 x 16: class-conditional networks as in BigGAN. 32 x 32: networks that grow, and the same at full size at once.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from genimg_lib import checkpoints, datasets, losses, provenance
from genimg_lib.networks.biggan import BigDiscriminator, BigGenerator
from genimg_lib.networks.progressive import Given, ProgressiveDiscriminator, ProgressiveGenerator, at_stage
from genimg_lib.recipes.base import glyphs_data
from genimg_lib.recipes.scaling import DIGITS, ProgressiveColour, judge
from genimg_lib.training import adam
from genimg_lib.training_gan import gan_step

RESULTS = Path("bench/results/scaling")
STEPS, GROWN_STEPS, BATCH, LATENT, IMAGES, SAMPLES, SEEDS = 1_000, 1_000, 16, 48, 20_000, 1_000, (0, 1, 2)
WIDTH, EXPERTS, EXPERT_WIDTH = 16, 4, 7  # four generators of width 7 have about as many weights as one of width 16
CHANNELS, SHARES = (32, 32, 16, 8), (2, 3, 3, 2)
GAMMA, DECAY = 0.1, 0.99
PROTOCOL = (
    f"Colour digits of the training fonts, batch {BATCH}, Adam (β₁ = 0), one setting for all kinds, without a search; scored "
    f"are {SAMPLES} samples of the average over G's updates (decay {DECAY}). The book's classifier reads what is ink in them: "
    f"Fréchet feature distance to {SAMPLES} real images (test split), lower is better; read right: the share that shows the "
    "digit asked for; sure: the share read as one of the ten digits with at least 0.9. At 16 x 16, "
    f"{STEPS} updates of class-conditional networks, {WIDTH} channels in the last map. At 32 x 32, without classes, "
    f"{GROWN_STEPS} updates for the networks that grow; at full size from the start as many as cost the same arithmetic. "
    "The step size falls over the last quarter. Failed: not finite."
)


@dataclass(frozen=True)
class Kind:
    """The first kind, and what a row changes of it."""

    name: str = "residual, attention, hinge, spectral norm"
    size: int = 16
    residual: bool = True
    attention: bool = True
    relativistic: bool = False  # that loss with R1 and R2, in place of hinge and spectral norm
    experts: int = 1  # generators; with more than one each draws an equal part of every batch
    grows: bool = False  # 32 x 32: from 4 x 4, or at full size from the start


KINDS = (
    Kind(),
    Kind("plain blocks, no skips", residual=False),
    Kind("no self-attention", attention=False),
    Kind("relativistic, R1 and R2", relativistic=True),
    Kind("four small generators", experts=EXPERTS),
    Kind("32 x 32, grown", size=32, grows=True),
    Kind("32 x 32, full size from the start", size=32),
)


class Mixture(nn.Module):
    """Several generators; each draws one part of the batch, so that every image comes from one of them with equal weight."""

    def __init__(self, generators: Sequence[nn.Module]) -> None:
        super().__init__()
        self.generators = nn.ModuleList(generators)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (B, latent), y (B,) -> images; image i is drawn by generator i modulo their number."""
        count = len(self.generators)
        parts = [G(z[k::count], y[k::count]) for k, G in enumerate(self.generators)]
        x = torch.empty(len(z), *parts[0].shape[1:], dtype=parts[0].dtype)
        for k, part in enumerate(parts):
            x[k::count] = part
        return x


def networks(kind: Kind) -> tuple[nn.Module, nn.Module]:
    """G and D, untrained."""
    if kind.size == 32:
        return ProgressiveGenerator(LATENT, CHANNELS), ProgressiveDiscriminator(CHANNELS)
    options = {"attention": kind.attention, "residual": kind.residual}
    width = WIDTH if kind.experts == 1 else EXPERT_WIDTH
    generators = [BigGenerator(10, LATENT, width, **options) for _ in range(kind.experts)]
    D = BigDiscriminator(10, WIDTH, spectral=not kind.relativistic, **options)
    return (Mixture(generators) if kind.experts > 1 else generators[0]), D


def stage(step: int, steps: int, grows: bool) -> tuple[int, float]:
    """(level, alpha) at 32 x 32."""
    return ProgressiveColour(steps=steps, shares=SHARES).stage(step) if grows else (3, 1.0)


def logistic_d(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.logistic_d_loss(real_logits=D(x), fake_logits=D(fake)) + GAMMA / 2 * losses.zero_centred_penalty(D, x)


def logistic_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.nonsaturating_g_loss(D(fake))


def hinge_d(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.hinge_d_loss(real_logits=D(x), fake_logits=D(fake))


def hinge_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.hinge_g_loss(D(fake))


def relativistic_d(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    penalty = losses.zero_centred_penalty(D, x) + losses.zero_centred_penalty(D, fake)
    return losses.relativistic_d_loss(real_logits=D(x), fake_logits=D(fake)) + GAMMA / 2 * penalty


def relativistic_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.relativistic_g_loss(real_logits=D(x), fake_logits=D(fake))


def update(kind: Kind, G: nn.Module, D: nn.Module, opts: list[Any], x: Tensor, y: Tensor, at: tuple[int, float]) -> None:
    """One update of both players on x (B, 3, size, size) in [-1, 1]."""
    given: tuple[Any, ...] = at if kind.size == 32 else (y,)
    x = at_stage(x, *at) if kind.size == 32 else x
    d_loss, g_loss = (relativistic_d, relativistic_g) if kind.relativistic else (hinge_d, hinge_g)
    if kind.size == 32:
        d_loss, g_loss = logistic_d, logistic_g
    opt_G, opt_D = opts
    gan_step(
        Given(G, *given), Given(D, *given), opt_G, opt_D, x, lambda: torch.randn(len(x), LATENT), d_loss=d_loss, g_loss=g_loss
    )  # fmt: skip


def arithmetic(level: int, alpha: float) -> int:
    """Floating-point operations of an update at 32 x 32: 4 times G's forward pass and 14 times D's.

    G once alone and once with its backward pass (3); D with the latter on reals and on fakes (6), in R1 (6), for G (2).
    """
    G, D = networks(Kind(size=32))
    with torch.no_grad(), FlopCounterMode(display=False) as G_counter:
        x = G(torch.zeros(BATCH, LATENT), level, alpha)
    with torch.no_grad(), FlopCounterMode(display=False) as D_counter:
        D(x, level, alpha)
    return 4 * G_counter.get_total_flops() + 14 * D_counter.get_total_flops()


def steps_of(kind: Kind) -> int:
    """Updates: at full size from the start, as many as cost what growing costs."""
    if kind.size == 16:
        return STEPS
    if kind.grows:
        return GROWN_STEPS
    grown = sum(arithmetic(*stage(step, 100, grows=True)) for step in range(100)) / 100
    return round(GROWN_STEPS * grown / arithmetic(3, 1.0))


def play(kind: Kind, seed: int, steps: int, images: Tensor, labels: Tensor) -> Tensor:
    """Train on images (N, 3, s, s) uint8; SAMPLES images in [0, 1], of class i modulo 10 where there are classes."""
    torch.manual_seed(seed)
    G, D = networks(kind)
    lr = 1e-2 if kind.size == 32 else 2e-3  # the former of equalised weights, which are larger as they are stored
    opts = [adam(net.parameters(), lr, betas=(0.0, 0.99)) for net in (G, D)]
    average = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    for step in range(steps):
        for opt in opts:
            opt.param_groups[0]["lr"] = lr * min(1.0, 4 * (1 - step / steps))
        chosen = torch.randint(len(images), (BATCH,))
        x = 2 * datasets.to_unit(images[chosen]) - 1
        update(kind, G, D, opts, x, labels[chosen], stage(step, steps, kind.grows))
        average.update_parameters(G)
    with torch.no_grad():  # in training mode: BatchNorm's statistics of this one large batch
        z = torch.randn(SAMPLES, LATENT)
        made = average.module(z) if kind.size == 32 else average.module(z, torch.arange(SAMPLES) % 10)
    return ((made + 1) / 2).clamp(0, 1)


def digits(split: str, n: int, size: int, characters: str = DIGITS) -> datasets.ImageDataset:
    """Colour digits of the training fonts."""
    return datasets.load("glyphs", split=split, n=n, fonts="train", size=size, color=True, characters=characters)


def result(number: int, seed: int) -> dict[str, Any]:
    """One training and its scores."""
    kind = KINDS[number]
    data, real = digits("train", IMAGES, kind.size), datasets.to_unit(digits("test", 2 * SAMPLES, kind.size))
    steps, begun = steps_of(kind), time.perf_counter()
    made = play(kind, seed, steps, data.images, data.labels)
    seconds = time.perf_counter() - begun
    floor = judge(real[SAMPLES:], None, real[:SAMPLES])
    of_one = [judge(datasets.to_unit(digits("test", SAMPLES, kind.size, c)), None, real[:SAMPLES])["frechet"] for c in DIGITS]
    finite = bool(made.isfinite().all())
    score = judge(made, None, real[:SAMPLES]) if finite else {"frechet": None, "sure": None}
    classed = finite and kind.size == 16
    right = judge(made, torch.arange(SAMPLES) % 10, real[:SAMPLES])["right"] if classed else None
    G, D = networks(kind)
    return {
        "experiment": "scaling",
        "method": kind.name,
        "config": asdict(kind),
        "weights": {name: sum(p.numel() for p in net.parameters()) for name, net in (("G", G), ("D", D))},
        "frechet": score["frechet"],
        "read_right_percent": None if right is None else round(100 * right, 1),
        "sure_percent": None if score["sure"] is None else round(100 * score["sure"], 1),
        "frechet_of_real": floor["frechet"],
        "sure_of_real_percent": round(100 * floor["sure"], 1),
        "frechet_of_one_digit": min(of_one),
        "protocol": PROTOCOL,
        "provenance": provenance.collect(
            command=f"python -m bench.scaling {number}",
            seed=seed,
            data=glyphs_data(n=IMAGES, size=kind.size, color=True, characters=DIGITS, seed=0),
            steps=steps,
            seconds=seconds,
            modules=["bench.scaling"],
            failed=None if finite else "not finite",
        ),
    }


def main(arguments: list[str]) -> None:
    """Numbers of kinds, or none for all."""
    torch.set_num_threads(1)
    for seed in SEEDS:  # all kinds with one seed first, so that a table cut short is a fair one
        for number in [int(word) for word in arguments] or range(len(KINDS)):
            path = RESULTS / f"{number:02d}-seed{seed}.json"
            if path.exists():
                print(f"{KINDS[number].name}, seed {seed}: present, skipped")
                continue
            row = result(number, seed)
            checkpoints.write_atomically(path, (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode())
            print(KINDS[number].name, seed, row["frechet"], row["read_right_percent"], row["sure_percent"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
