"""Mode counting on known truth: 100 glyphs (ten characters in ten faces), and how many of them each kind of GAN makes.

    python -m bench.glyph_modes                # every method: tuned on seeds 0 and 1, reported on seeds 10 to 14
    python -m bench.glyph_modes gan r1         # some methods only

A mode is one character in one face, nearly upright and centred, so that it is one small cloud of images. A classifier of the
100 pairs, trained here, says of which mode a sample is; what it confuses on fresh real images is in every result file. All
seeds of a method are trained at once; a method whose files are present is skipped. One thread.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench import toy_networks as nets
from genimg_lib import checkpoints, provenance
from genimg_lib.datasets.glyphs import ALPHABET, FONTS, render
from genimg_lib.networks.stacked import StackedLinear, stacked_mlp
from genimg_lib.training import adam
from genimg_lib.training_gan import gan_step

RESULTS = Path("bench/results/glyph-modes")
CHARACTERS = "ABDKMPRUWg"  # of those that look least alike in the faces below
FACES = (
    *("sans", "sans-bold", "sans-italic", "serif-italic", "serif-bold-italic"),
    *("mono-bold", "mono-bold-italic", "stix", "stix-bold", "stix-bold-italic"),
)
MODES = len(CHARACTERS) * len(FACES)
SIDE = 16  # pixels
SHIFT, SCALE = 0.03, (1.05, 1.1)  # of the side, either way; no turn and no lean
POOL, HELD_OUT, SAMPLES = 20_000, 20_000, 5_000
COVERED = 0.2  # of a mode's fair share of the samples
SURE = 0.9  # of the classifier, for a sample to count as a glyph
SETTINGS = ((5e-4, 0.5), (1e-3, 0.0), (2e-3, 0.0))  # Adam's step size and beta1, tried for every method
TUNING = (0, 1)
EXACT = "exact"
PROTOCOL = (
    "A mode is one of ten characters in one of ten faces, 16 x 16 pixels, scaled by 1.05 to 1.1 and shifted by up to half a "
    "pixel each way. Every method: the same networks (two hidden layers of 256, 32 Gaussian latents; PacGAN2 sees two "
    "images at a time), 64 images a step, 1,500 updates of each player, step sizes constant for half of them and then "
    "linearly to 0, a running mean of the generator's weights. Penalties: R1 and R1 + R2 with gamma 0.1, WGAN-GP with 1. "
    "Three step sizes of each are tried on seeds 0 and 1 with 500 updates; the one with most modes, then most sure samples, "
    "is trained on seeds 10 to 14 and scored with 5,000 images each. A sample counts if the classifier of the 100 modes "
    "gives one of them a probability of at least 0.9 (sure), and a mode is covered by at least 10 such samples, a fifth of "
    "its share. The reverse KL divergence is that of the sure samples' histogram from equal shares; real images show what "
    "it is for a finite sample."
)


@dataclass(frozen=True)
class Config:
    """One training of several seeds; lr and beta1 are what tuning chooses."""

    method: str
    lr: float = 1e-3  # Adam's step size, both players; constant for half the steps, then linearly down to 0
    beta1: float = 0.0
    steps: int = 1_500  # updates of each player
    batch_size: int = 64  # images a seed
    width: int = 256  # of the hidden layers
    latent_dim: int = 32  # Gaussian noise
    average: float = 0.995  # decay of the running mean of G's weights, which is what is scored
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)


METHODS: dict[
    str, tuple[str, dict[str, Any], Callable[..., Tensor], Callable[..., Tensor]]
] = {  # name, critic, losses of D and of G
    "gan": ("GAN, non-saturating", {}, nets.logistic, nets.nonsaturating),
    "pacgan2": ("PacGAN2", {"pack": 2}, nets.logistic, nets.nonsaturating),
    "r1": ("R1", {}, partial(nets.r1, gamma=0.1), nets.nonsaturating),
    "wgan-gp": ("WGAN-GP", {}, partial(nets.wgan_gp, gamma=1.0), nets.wasserstein),
    "sn-hinge": ("Spectral norm, hinge", {"spectral": True}, nets.hinge, nets.hinge_g),
    "r3gan": ("Relativistic, R1 + R2", {}, partial(nets.relativistic_r1_r2, gamma=0.1), nets.relativistic),
}


def glyphs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Real images (n, 256) in [-1, 1], and of which mode each is (n,), all modes equally likely."""
    u = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed))
    mode = (MODES * u[:, 0]).long().clamp_(max=MODES - 1)
    character = torch.tensor([ALPHABET.index(c) for c in CHARACTERS])[mode // len(FACES)]
    font = torch.tensor([FONTS.index(face) for face in FACES])[mode % len(FACES)]
    scale, shift, zero = SCALE[0] + (SCALE[1] - SCALE[0]) * u[:, 1], SHIFT * (2 * u[:, 2:] - 1), torch.zeros(n)
    factors = {"character": character, "font": font, "angle": zero, "shear": zero, "scale": scale, "shift": shift}
    return render(factors, SIDE).flatten(1).float() / 127.5 - 1, mode


@lru_cache(maxsize=1)
def pool() -> Tensor:
    """What the networks are trained on, (POOL, 256)."""
    return glyphs(POOL, seed=1)[0]


@lru_cache(maxsize=1)
def classifier() -> tuple[nn.Module, Tensor]:
    """Logits (N, 100) of images (N, 256), and the confusion on held-out images: counts, row true, column predicted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(SIDE**2, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, MODES))
        optimizer = adam(net.parameters(), 1e-3)
        x, mode = glyphs(POOL, seed=1)
        for step in range(1_500):
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1, 2 - 2 * step / 1_500)
            rows = torch.randint(POOL, (128,))
            loss = F.cross_entropy(net(x[rows] + 0.2 * torch.randn(128, SIDE**2)), mode[rows])  # noise: samples are not clean
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    held_out, truth = glyphs(HELD_OUT, seed=2)
    with torch.no_grad():
        found = net(held_out).argmax(1)
    return net, torch.bincount(MODES * truth + found, minlength=MODES**2).view(MODES, MODES)


class Critic(nn.Module):
    """x (S, B, 256) -> logits (S, B // pack)."""

    def __init__(self, seeds: Sequence[int], width: int, *, pack: int = 1, spectral: bool = False) -> None:
        super().__init__()
        self.pack = pack
        self.net = stacked_mlp([10_000 + seed for seed in seeds], [pack * SIDE**2, width, width, 1], nets.activation)
        if spectral:
            for layer in self.net:
                if isinstance(layer, StackedLinear):
                    register_parametrization(layer, "weight", nets.StackedSpectralNorm(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unflatten(1, (-1, self.pack)).flatten(2))[..., 0]  # PacGAN: `pack` images side by side


def fit(config: Config) -> tuple[Tensor, float]:
    """SAMPLES images of each seed's averaged generator, (S, SAMPLES, 256) in [-1, 1], and the seconds of training."""
    _, critic, d_loss, g_loss = METHODS[config.method]
    count = len(config.seeds)
    torch.manual_seed(config.seeds[0])
    sizes = [config.latent_dim, config.width, config.width, SIDE**2]
    G = nn.Sequential(stacked_mlp(config.seeds, sizes, nets.activation), nn.Tanh())
    D = Critic(config.seeds, config.width, **critic)
    opt_G, opt_D = (adam(net.parameters(), config.lr, (config.beta1, 0.99)) for net in (G, D))
    averaged = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(config.average))
    x = pool()
    start = time.perf_counter()
    for step in range(config.steps):
        for optimizer in (opt_G, opt_D):
            optimizer.param_groups[0]["lr"] = config.lr * min(1.0, 2 * (1 - step / config.steps))
        gan_step(
            G, D, opt_G, opt_D, x[torch.randint(len(x), (count, config.batch_size))],
            lambda: torch.randn(count, config.batch_size, config.latent_dim),
            d_loss=d_loss, g_loss=g_loss,
            backward=lambda loss: (count * loss).backward(),  # the sum over seeds, whose networks share nothing
        )  # fmt: skip
        averaged.update_parameters(G)
    seconds = time.perf_counter() - start
    z = torch.randn(count, SAMPLES, config.latent_dim, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return averaged(z), seconds


def score(sample: Tensor) -> dict[str, Any]:
    """What one seed's images (N, 256) reach."""
    if not sample.isfinite().all():
        return {"failed": "NaN"}
    net, _ = classifier()
    with torch.no_grad():
        surest, mode = net(sample).softmax(1).max(1)
    sure = surest >= SURE
    counts = torch.bincount(mode[sure], minlength=MODES)
    shares = counts / counts.sum()
    covered = int((counts >= COVERED * len(sample) / MODES).sum())
    return {
        "modes": covered,
        "sure_percent": round(100 * sure.float().mean().item(), 2),
        "reverse_kl_nats": round(torch.special.xlogy(shares, shares * MODES).sum().item(), 4) if covered else None,
        "counts": counts.tolist(),
        "failed": None if covered else "no mode is covered",
    }


def tuned(method: str) -> tuple[Config, list[dict[str, Any]]]:
    """The setting with most modes, then most sure samples, on the tuning seeds in a third of the updates; all tried."""
    tried: list[dict[str, Any]] = []
    configs = [Config(method, lr=lr, beta1=beta1) for lr, beta1 in SETTINGS]
    for config in configs:
        scores = [score(sample) for sample in fit(replace(config, seeds=TUNING, steps=config.steps // 3))[0]]
        modes, sure = (mean(row.get(key, 0) for row in scores) for key in ("modes", "sure_percent"))
        tried.append({"lr": config.lr, "beta1": config.beta1, "modes": modes, "sure_percent": sure})
        print(method, tried[-1], file=sys.stderr, flush=True)
    return configs[max(range(len(tried)), key=lambda i: (tried[i]["modes"], tried[i]["sure_percent"]))], tried


def results(method: str) -> list[dict[str, Any]]:
    """Tune, train on the reported seeds, score: one result a seed."""
    if method == EXACT:
        config, seconds, tried = Config(EXACT, steps=0), 0.0, list[dict[str, Any]]()
        samples = torch.stack([glyphs(SAMPLES, seed)[0] for seed in config.seeds])
    else:
        config, tried = tuned(method)
        samples, seconds = fit(config)
    _, confusion = classifier()
    found = []
    for seed, sample in zip(config.seeds, samples, strict=True):
        row = score(sample)
        failed = row.pop("failed")
        block = provenance.collect(
            command=f"python -m bench.glyph_modes {method}", seed=seed,
            data={"name": "glyphs of 100 modes, rendered", "n": POOL},
            steps=config.steps, seconds=seconds / len(config.seeds), modules=["bench.glyph_modes"], failed=failed,
        )  # fmt: skip
        found.append({
            "experiment": "glyph-modes", "method": "Real images" if method == EXACT else METHODS[method][0],
            "config": asdict(config), **row,
            "classifier_accuracy_percent": round(100 * (confusion.trace() / confusion.sum()).item(), 3),
            "classifier_worst_mode_percent": round(100 * (confusion.diag() / confusion.sum(1)).min().item(), 2),
            "tuning": tried, "protocol": PROTOCOL, "published": None, "provenance": block,
        })  # fmt: skip
    return found


def main(arguments: list[str]) -> None:
    """Methods; all of them if none is named."""
    torch.set_num_threads(1)
    known = [EXACT, *METHODS]
    if not set(arguments) <= set(known):
        raise SystemExit(f"expected any of {', '.join(known)}; got {' '.join(arguments)}")
    for method in arguments or known:
        if list(RESULTS.glob(f"{method}-seed*.json")):
            print(f"{RESULTS}/{method}-seed*.json are present: skipped")
            continue
        for result in results(method):
            path = RESULTS / f"{method}-seed{result['provenance']['seed']}.json"
            checkpoints.write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
