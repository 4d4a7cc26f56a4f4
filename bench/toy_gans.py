"""How many modes of a ring (8) and a grid (25) of Gaussians each kind of GAN covers; all seeds of a method at once.

    python -m bench.toy_gans ring                  # every method, tuned on seeds 0 to 4, reported on seeds 10 to 14
    python -m bench.toy_gans grid gan r1           # some methods only

Tuning and each method are skipped where their files are present. One thread. Points are divided by the data's scale, so that
both sets lie in about [-1, 1]²; networks, steps, batches, decay and averaging are the same for all methods.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench import toy_networks as nets
from genimg_lib import checkpoints, provenance
from genimg_lib.datasets import points
from genimg_lib.metrics.modes import gaussian_modes
from genimg_lib.networks.stacked import stacked_mlp
from genimg_lib.training import adam
from genimg_lib.training_gan import gan_step

SCALE = {"ring": 1.0, "grid": 4.0}  # data units in one unit of the networks
SAMPLES = 2500  # scored a seed
ENOUGH = 20  # high-quality samples that make a mode covered
CODES = 128
STEPS = {"ring": 4000, "grid": 6000}  # updates
TUNING_STEPS = 1500
TUNING = (0, 1, 2, 3, 4)
RESULTS = Path("bench/results")


@dataclass(frozen=True)
class Config:
    """One training of several seeds; lr, beta1, gamma and look_ahead are what tuning chooses."""

    method: str
    data: str  # ring or grid
    lr: float = 2e-3  # Adam's step size, both players; constant for half the steps, then linearly down to 0
    beta1: float = 0.0
    gamma: tuple[float, float] = (0.0, 0.0)  # of the gradient penalty (WGAN-GP: lambda), first and last step, geometric between
    steps: int = STEPS["ring"]  # updates of each player
    batch_size: int = 256  # points a seed
    width: int = 128  # of the three hidden layers of each network
    latent_dim: int = 2  # Gaussian noise
    codes: int = 0  # values of a discrete latent beside it, one-hot and equally likely; 0: there is none
    average: float = 0.995  # decay of the running mean of G's weights, which is what is scored
    generators: int = 1  # of the mixture
    look_ahead: float = 0.0  # size of the steps of D that an unrolled generator foresees
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)


PROTOCOL = (
    "Every method: the same networks (three hidden layers of 128; D sees sines and cosines of the coordinates as well), two "
    "Gaussian latents, 256 points a step, as many updates of each player (4,000 on the ring, 6,000 on the grid), step sizes "
    "constant for half of them and then linearly to 0, a running mean of the generator's weights. Three settings of each are "
    "tried on seeds 0 to 4 with 1,500 updates; the one with most modes, then most high quality, is trained on seeds 10 to 14 "
    "and scored with 2,500 points each. A mode is covered if 20 or more of them lie within 3 standard deviations."
)
UNROLLED = [(5e-4, 0.01), (5e-4, 0.1), (1e-4, 0.1)]  # lr and look_ahead
PENALISED = [(1.0, 1e-3), (1.0, 5e-4), (0.5, 5e-4)]  # gamma at the first and the last step
METHODS: dict[str, tuple[str, dict[str, Any], Callable[..., Tensor], Callable[..., Tensor]]] = {  # critic, losses of D and G
    "gan": ("GAN, non-saturating", {}, nets.logistic, nets.nonsaturating),
    "unrolled": (f"Unrolled GAN, {nets.UNROLLED} steps", {}, nets.logistic, nets.unrolled),
    "pacgan2": ("PacGAN2", {"pack": 2}, nets.logistic, nets.nonsaturating),
    "minibatch": ("Minibatch standard deviation", {"deviation": True}, nets.logistic, nets.nonsaturating),
    "r1": ("R1", {}, nets.r1, nets.nonsaturating),
    "wgan-gp": ("WGAN-GP", {}, nets.wgan_gp, nets.wasserstein),
    "sn-hinge": ("Spectral norm, hinge", {"spectral": True}, nets.hinge, nets.hinge_g),
    "mixture": ("Mixture of 8 generators", {"outputs": 9}, nets.mixture_d, nets.mixture_g),
    "r3gan": ("Relativistic, R1 + R2", {}, nets.relativistic_r1_r2, nets.relativistic),
    "gan-codes": ("GAN, discrete codes in z", {}, nets.logistic, nets.nonsaturating),
    "r3gan-codes": ("Relativistic, R1 + R2, discrete codes in z", {}, nets.relativistic_r1_r2, nets.relativistic),
}
EXACT = "exact"


def candidates(method: str, data: str) -> list[Config]:
    """The settings that tuning compares, three a method."""
    base = Config(
        method, data, steps=STEPS[data], generators=8 if method == "mixture" else 1, codes=CODES if "codes" in method else 0
    )
    if method == "unrolled":
        return [replace(base, lr=lr, beta1=0.5, look_ahead=step) for lr, step in UNROLLED]
    if method.startswith("r"):
        return [replace(base, gamma=gamma) for gamma in PENALISED]
    if method == "wgan-gp":
        return [replace(base, gamma=(1.0, 1.0), lr=lr) for lr in (5e-4, 2e-3)] + [replace(base, gamma=(0.1, 0.1))]
    return [replace(base, lr=lr, beta1=beta1) for lr, beta1 in ((5e-4, 0.5), (2e-3, 0.5), (2e-3, 0.0))]


def sampler(config: Config, seed: int) -> Callable[[], Tensor]:
    """Draws real points (S, batch_size, 2) in the networks' units, anew at every call."""
    known = points(config.data, 1)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(config.seeds), config.batch_size)

    def draw() -> Tensor:
        labels = torch.randint(len(known.centers), shape, generator=generator)
        return (known.centers[labels] + known.std * torch.randn(*shape, 2, generator=generator)) / SCALE[config.data]

    return draw


def noise(config: Config, n: int, generator: torch.Generator) -> Tensor:
    """z (S, n, latent_dim + codes)."""
    z = torch.randn(len(config.seeds), n, config.latent_dim, generator=generator)
    if not config.codes:
        return z
    code = torch.randint(config.codes, z.shape[:2], generator=generator)
    return torch.cat([z, 2.0 * F.one_hot(code, config.codes)], -1)


def fit(config: Config) -> tuple[Tensor, float]:
    """SAMPLES points of each seed's averaged generator, (S, SAMPLES, 2) in the data's units, and the seconds of training."""
    _, critic, d_loss, g_loss = METHODS[config.method]
    torch.manual_seed(config.seeds[0])
    draw, generator = sampler(config, config.seeds[0]), torch.Generator().manual_seed(1 + config.seeds[0])
    sizes = [config.latent_dim + config.codes, config.width, config.width, config.width, 2]
    many = config.generators > 1
    G = nets.Mixture(config.seeds, sizes, config.generators) if many else stacked_mlp(config.seeds, sizes, nets.activation)
    D = nets.Critic(config.seeds, config.width, **critic)
    opt_G, opt_D = (adam(net.parameters(), config.lr, (config.beta1, 0.99)) for net in (G, D))
    averaged = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(config.average))
    foreseen = {"lr": config.look_ahead} if config.look_ahead else {}
    start = time.perf_counter()
    for step in range(config.steps):
        done = step / config.steps
        for optimizer in (opt_G, opt_D):
            optimizer.param_groups[0]["lr"] = config.lr * min(1.0, 2 * (1 - done))
        first, last = config.gamma
        weight = {"gamma": first * (last / first) ** done} if first else {}
        gan_step(
            G, D, opt_G, opt_D, draw(),
            lambda: noise(config, config.batch_size, generator),
            d_loss=partial(d_loss, **weight), g_loss=partial(g_loss, **foreseen),
            backward=lambda loss: (len(config.seeds) * loss).backward(),  # the sum over seeds, whose networks share nothing
        )  # fmt: skip
        averaged.update_parameters(G)
    seconds = time.perf_counter() - start
    generator.manual_seed(99)
    whole = SAMPLES + -SAMPLES % config.generators  # as many of each generator
    with torch.no_grad():
        sample = averaged(noise(config, whole, generator))
        return SCALE[config.data] * sample[:, torch.randperm(whole, generator=generator)[:SAMPLES]], seconds


def score(sample: Tensor, data: str) -> dict[str, Any]:
    """What one seed's points (SAMPLES, 2) reach."""
    known = points(data, 1)
    if not sample.isfinite().all():
        return {"failed": "NaN"}
    modes = gaussian_modes(sample, known.centers, known.std)
    shares = modes.counts / modes.counts.sum()
    reverse_kl = torch.special.xlogy(shares, shares * len(shares)).sum()  # KL(histogram || uniform)
    distance, nearest = torch.cdist(sample, known.centers).min(1)
    near = distance <= 3 * known.std
    off = [(sample[near & (nearest == k)] - sample[near & (nearest == k)].mean(0)) for k in range(len(known.centers))]
    covered = int((modes.counts >= ENOUGH).sum())
    return {
        "modes": covered,
        "high_quality_percent": round(100 * modes.high_quality, 2),
        "reverse_kl_nats": round(reverse_kl.item(), 4) if near.any() else None,
        "spread_over_sigma": round(torch.cat(off).square().mean().sqrt().item() / known.std, 3) if near.any() else None,
        "failed": None if covered else "no mode has 20 samples within 3 sigma",
    }


def tuned(method: str, data: str) -> tuple[Config, list[dict[str, Any]]]:
    """The candidate that covers most modes on seeds 0 to 4, then has most of high quality, and what each reached."""
    tried = []
    for config in candidates(method, data):
        scores = [score(sample, data) for sample in fit(replace(config, seeds=TUNING, steps=TUNING_STEPS))[0]]
        modes, quality = (mean(row.get(key, 0) for row in scores) for key in ("modes", "high_quality_percent"))
        chosen = {key: getattr(config, key) for key in ("lr", "beta1", "gamma", "look_ahead")}
        tried.append({**chosen, "modes": modes, "high_quality": quality})
        print(data, method, tried[-1], file=sys.stderr, flush=True)
    best = max(range(len(tried)), key=lambda i: (tried[i]["modes"], tried[i]["high_quality"]))
    return candidates(method, data)[best], tried


def results(method: str, data: str) -> list[dict[str, Any]]:
    """Tune, train on the reported seeds, score: one result a seed."""
    config, tried = tuned(method, data) if method != EXACT else (Config(EXACT, data, steps=0), [])
    if method == EXACT:
        samples, seconds = torch.stack([points(data, SAMPLES, seed).points for seed in config.seeds]), 0.0
    else:
        samples, seconds = fit(config)
    name = "Exact sampler" if method == EXACT else METHODS[method][0]
    found = []
    for seed, sample in zip(config.seeds, samples, strict=True):
        row = score(sample, data)
        failed = row.pop("failed")
        block = provenance.collect(
            command=f"python -m bench.toy_gans {data} {method}", seed=seed, data={"name": data, "drawn": "anew for each batch"},
            steps=config.steps, seconds=seconds / len(config.seeds), modules=["bench.toy_gans"], failed=failed,
        )  # fmt: skip
        found.append({
            "experiment": f"toy-{data}", "method": name, "config": asdict(config), **row, "tuning": tried,
            "protocol": PROTOCOL, "published": None, "provenance": block,
        })  # fmt: skip
    return found


def main(arguments: list[str]) -> None:
    """ring or grid, then methods; all of them if none is named."""
    torch.set_num_threads(1)
    known = [EXACT, *METHODS]
    data, chosen = arguments[:1], arguments[1:] or known
    if not data or data[0] not in SCALE or not set(chosen) <= set(known):
        raise SystemExit(f"expected ring or grid, then any of {', '.join(known)}; got {' '.join(arguments) or 'nothing'}")
    for method in chosen:
        folder = RESULTS / f"toy-{data[0]}"
        if list(folder.glob(f"{method}-seed*.json")):
            print(f"{folder}/{method}-seed*.json are present: skipped")
            continue
        for result in results(method, data[0]):
            content = json.dumps(result, indent=1) + "\n"
            checkpoints.write_atomically(folder / f"{method}-seed{result['provenance']['seed']}.json", content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
