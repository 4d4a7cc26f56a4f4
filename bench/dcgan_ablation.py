"""The DCGAN recipe, one ingredient changed at a time: digits of the glyphs, 16 x 16, five networks of each kind at once.

    python -m bench.dcgan_ablation            # all kinds; one whose result files are present is skipped
    python -m bench.dcgan_ablation 0 4 7      # some, by number

S networks are one: every convolution has S groups, so that each network sees its own channels only. One thread.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from genimg_lib import checkpoints, datasets, losses, provenance, weights
from genimg_lib.metrics.classifier import GlyphClassifier, in_batches
from genimg_lib.metrics.frechet import frechet_distance
from genimg_lib.recipes.base import glyphs_data
from genimg_lib.training import adam
from genimg_lib.training_gan import gan_step

RESULTS = Path("bench/results/dcgan-ablation")
STEPS, TUNING_STEPS, BATCH, WIDTH, LATENT, SIDE, SAMPLES = 1_000, 400, 32, 8, 16, 16, 1_000
STEP_SIZES, TUNING_SEEDS, SEEDS = (1e-3, 2e-3, 4e-3), (100, 101), (0, 1, 2, 3, 4)
CHARACTERS = "0123456789"
PROTOCOL = (
    f"Glyphs of the ten digits, training fonts, {SIDE} x {SIDE}; G of {WIDTH} and {2 * WIDTH} channels, D alike, {LATENT} "
    f"latents; non-saturating loss, batch {BATCH}, {STEPS} updates of each player, Adam. Every kind has the same number of "
    f"trials: its step size is the best of {', '.join(f'{lr:g}' for lr in STEP_SIZES)} on two other seeds at {TUNING_STEPS} "
    "updates. Score: Fréchet distance of the features of the book's classifier, images enlarged to 28 x 28, between "
    f"{SAMPLES} samples and as many real ones (test split); lower is better. Scored is the average over G's updates (decay "
    "0.99) unless the row says otherwise. Failed: not finite, or worse than real glyphs that all show one digit."
)


@dataclass(frozen=True)
class Kind:
    """The recipe, and what a row changes of it."""

    name: str = "the recipe"
    norm_G: bool = True  # BatchNorm in G
    norm_D: bool = True  # BatchNorm in D
    norm_ends: bool = False  # BatchNorm at G's output and after D's first layer too
    slope: float = 0.2  # of D's LeakyReLU; 0 is a ReLU
    pool: bool = False  # D: convolution 3 x 3 and average pooling, in place of stride 2
    resize: bool = False  # G: nearest-neighbour doubling and convolution 3 x 3, in place of the transposed convolution
    tanh: bool = True  # at G's output
    low: float = -1.0  # the data's darkest value; the brightest is 1
    std: float = 0.02  # of the weights at the start; 0: torch's own initialisation
    gamma: float = 1.0  # mean of BatchNorm's γ at the start
    beta1: float = 0.5  # Adam's first decay rate
    average: bool = True  # the average of G is scored, not G


KINDS = (
    Kind(),
    Kind("scored without the average", average=False),
    Kind("no BatchNorm in G", norm_G=False),
    Kind("no BatchNorm in D", norm_D=False),
    Kind("no BatchNorm at all", norm_G=False, norm_D=False),
    Kind("BatchNorm at the output and the input too", norm_ends=True),
    Kind("ReLU in D", slope=0.0),
    Kind("average pooling in D", pool=True),
    Kind("resize and convolve in G", resize=True),
    Kind("no tanh", tanh=False),
    Kind("tanh, data in [0, 1]", low=0.0),
    Kind("torch's initialisation", std=0.0),
    Kind("γ around 0", gamma=0.0),
    Kind("β₁ = 0.9", beta1=0.9),
)


def generator(kind: Kind, S: int, w: int = WIDTH, latent: int = LATENT) -> nn.Sequential:
    """(B, S latent, 1, 1) -> (B, S, 16, 16): S generators side by side."""

    def up(fan_in: int, fan_out: int) -> list[nn.Module]:
        if kind.resize:
            return [nn.Upsample(scale_factor=2), nn.Conv2d(S * fan_in, S * fan_out, 3, 1, 1, groups=S)]
        return [nn.ConvTranspose2d(S * fan_in, S * fan_out, 4, 2, 1, groups=S)]

    def normed(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(S * channels)] if kind.norm_G else []

    layers = [nn.ConvTranspose2d(S * latent, S * 2 * w, 4, groups=S), *normed(2 * w), nn.ReLU(), *up(2 * w, w), *normed(w)]
    layers += [nn.ReLU(), *up(w, 1), *([nn.BatchNorm2d(S)] if kind.norm_ends else []), *([nn.Tanh()] if kind.tanh else [])]
    return start(nn.Sequential(*layers), kind)


def discriminator(kind: Kind, S: int, w: int = WIDTH) -> nn.Sequential:
    """(B, S, 16, 16) -> (B, S, 1, 1): S discriminators side by side."""

    def down(fan_in: int, fan_out: int) -> list[nn.Module]:
        if kind.pool:
            return [nn.Conv2d(S * fan_in, S * fan_out, 3, 1, 1, groups=S), nn.AvgPool2d(2)]
        return [nn.Conv2d(S * fan_in, S * fan_out, 4, 2, 1, groups=S)]

    def squash() -> nn.Module:
        return nn.LeakyReLU(kind.slope)

    layers = [*down(1, w), *([nn.BatchNorm2d(S * w)] if kind.norm_ends else []), squash(), *down(w, 2 * w)]
    layers += [*([nn.BatchNorm2d(S * 2 * w)] if kind.norm_D else []), squash(), nn.Conv2d(S * 2 * w, S, 4, groups=S)]
    return start(nn.Sequential(*layers), kind)


def start(net: nn.Sequential, kind: Kind) -> nn.Sequential:
    """The initialisation, in place."""
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, kind.gamma, 0.02)
        elif kind.std and isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, kind.std)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return net


def play(kind: Kind, lr: float, seeds: tuple[int, ...], steps: int, images: Tensor) -> Tensor:
    """Train a network for each seed (their random numbers come from one stream, that of the first seed); samples.

    images: (N, 1, 16, 16) in [0, 1]. Returns (S, SAMPLES, 1, 16, 16) in [0, 1], what lies outside cut off.
    """
    S = len(seeds)
    torch.manual_seed(seeds[0])
    G, D = generator(kind, S), discriminator(kind, S)
    opt_G, opt_D = (adam(net.parameters(), lr, betas=(kind.beta1, 0.999)) for net in (G, D))
    average = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    x_all = kind.low + (1 - kind.low) * images[:, 0]
    for _ in range(steps):
        x = x_all[torch.randint(len(x_all), (BATCH, S))]  # (B, S, 16, 16): each network its own batch
        gan_step(
            G, D, opt_G, opt_D, x, lambda: torch.randn(BATCH, S * LATENT, 1, 1),
            d_loss=lambda D, x, fake: S * losses.logistic_d_loss(real_logits=D(x), fake_logits=D(fake)),
            g_loss=lambda D, x, fake: S * losses.nonsaturating_g_loss(D(fake)),
        )  # fmt: skip
        average.update_parameters(G)
    scored = average.module if kind.average else G
    with torch.no_grad():  # in training mode: the statistics of this one large batch
        made = scored(torch.randn(SAMPLES, S * LATENT, 1, 1))
    return ((made - kind.low) / (1 - kind.low)).clamp(0, 1).transpose(0, 1).unsqueeze(2)


def features_of(images: Tensor) -> Tensor:
    """(N, 1, 16, 16) in [0, 1] -> the classifier's features (N, 64)."""
    classifier = weights.load("glyph-classifier", GlyphClassifier())
    enlarged = interpolate(images, size=28, mode="bilinear", antialias=False).clamp(0, 1)
    return in_batches(classifier.features, enlarged)


def distances(samples: Tensor, real: Tensor) -> list[float]:
    """Fréchet feature distance of each network's samples (S, N, 1, 16, 16); infinity for what is not finite."""
    return [float(frechet_distance(real, features_of(x))) if x.isfinite().all() else float("inf") for x in samples]


def glyphs(split: str, n: int, **options: Any) -> Tensor:
    """Digits of the training fonts, (n, 1, 16, 16) in [0, 1]."""
    options = {"characters": CHARACTERS, "fonts": "train", "size": SIDE, **options}
    return datasets.to_unit(datasets.load("glyphs", split=split, n=n, **options))


def result(number: int) -> list[dict[str, Any]]:
    """The tuning of one kind and its five runs."""
    kind = KINDS[number]
    images, test = glyphs("train", 20_000), glyphs("test", 2 * SAMPLES)
    real = features_of(test[:SAMPLES])
    floor = float(frechet_distance(real, features_of(test[SAMPLES:])))
    one_digit = min(float(frechet_distance(real, features_of(glyphs("test", SAMPLES, characters=c)))) for c in CHARACTERS)
    tuning = {lr: distances(play(kind, lr, TUNING_SEEDS, TUNING_STEPS, images), real) for lr in STEP_SIZES}
    lr = min(tuning, key=lambda size: sum(tuning[size]))
    begun = time.perf_counter()
    samples = play(kind, lr, SEEDS, STEPS, images)
    seconds = (time.perf_counter() - begun) / len(SEEDS)  # each one's share
    reached = distances(samples, real)
    return [
        {
            "experiment": "dcgan-ablation",
            "method": kind.name,
            "config": asdict(kind) | {"lr": lr},
            "frechet": round(distance, 1),
            "frechet_of_real": round(floor, 1),
            "frechet_of_one_digit": round(one_digit, 1),
            "tuning": {f"{size:g}": [round(value, 1) for value in values] for size, values in tuning.items()},
            "protocol": PROTOCOL,
            "provenance": provenance.collect(
                command=f"python -m bench.dcgan_ablation {number}",
                seed=seed,
                data=glyphs_data(n=20_000, size=SIDE, characters=CHARACTERS, seed=0),
                steps=STEPS,
                seconds=seconds,
                modules=["bench.dcgan_ablation"],
                failed=None if distance < one_digit else "not finite" if distance == float("inf") else "collapsed",
            ),
        }
        for seed, distance in zip(SEEDS, reached, strict=True)
    ]


def main(arguments: list[str]) -> None:
    """Numbers of kinds, or none for all."""
    torch.set_num_threads(1)
    for number in [int(word) for word in arguments] or range(len(KINDS)):
        paths = [RESULTS / f"{number:02d}-seed{seed}.json" for seed in SEEDS]
        if all(path.exists() for path in paths):
            print(f"{KINDS[number].name}: present, skipped")
            continue
        rows = result(number)
        for path, row in zip(paths, rows, strict=True):
            checkpoints.write_atomically(path, (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode())
        print(KINDS[number].name, rows[0]["config"]["lr"], [row["frechet"] for row in rows], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
