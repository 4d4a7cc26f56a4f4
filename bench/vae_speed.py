"""Steps per second of the PyTorch example's VAE (784-400-20, batch 128), one thread, one run, in alternating rounds.

    python -m bench.vae_speed [--again]     # --again: measure although the result file is present

library: `training.train` with `training.vae_step`; bare: a hand-written loop with the same choices; usual: a Dataset of PIL
images, a DataLoader, unfused Adam, `.item()` at every step; products: nothing but the step's matrix products, forward and
backward, which no loop can beat. Time is the thread's own processor time, so that another process costs a measurement little.
"""

import hashlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from genimg_lib import checkpoints, datasets, provenance
from genimg_lib.networks import MLPVAE
from genimg_lib.training import Run, adam, make_accelerator, seed_everything, train, vae_step

RESULT = Path("bench/results/vae-speed/mlp-784-400-20-seed0.json")
BATCH, STEPS, ROUNDS, SEED = 128, 60, 15, 0
LAYERS = [(784, 400), (400, 40), (20, 400), (400, 784)]  # inputs and outputs of each
GFLOP = 2e-9 * BATCH * sum(2 * a * b + a * b * (number > 0) for number, (a, b) in enumerate(LAYERS))  # in one step's products
Contender = Callable[[int], None]  # takes that many steps
# Which operators a profile counts as what; those not named are "other".
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm"),
    "Adam": ("aten::_fused_adam_", "Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"),
    "random numbers": ("aten::normal_", "aten::randperm", "aten::random_"),
    "gather": ("aten::index_select",),
    "elementwise and sums": (
        "aten::add", "aten::add_", "aten::sub", "aten::sub_", "aten::rsub", "aten::mul", "aten::mul_", "aten::div", "aten::neg",
        "aten::exp", "aten::expm1", "aten::pow", "aten::sum", "aten::mean", "aten::sigmoid", "aten::softplus", "aten::relu",
        "aten::clamp_min", "aten::clamp_min_", "aten::threshold_backward", "aten::log_sigmoid_forward", "aten::aminmax",
        "aten::log_sigmoid_backward", "aten::softplus_backward", "aten::sigmoid_backward", "aten::fill_", "aten::copy_",
        "aten::cat", "aten::binary_cross_entropy_with_logits", "aten::sigmoid_",
    ),
}  # fmt: skip


def library(images: Tensor) -> Contender:
    """Our loop."""
    accelerator = make_accelerator(cpu=True)
    model = MLPVAE()
    optimizer = adam(model.parameters(), lr=1e-3)
    run = Run("vae-speed", {"model": model}, {"adam": optimizer})

    def take(steps: int) -> None:
        train(
            run, lambda x: vae_step(model, optimizer, x, accelerator), images, steps=run.step + steps, batch_size=BATCH,
            seed=SEED, accelerator=accelerator,
        )  # fmt: skip

    return take


def bare(images: Tensor) -> Contender:
    """The same, written by hand around the same network."""
    model = MLPVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def batches() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(images)).split(BATCH)[:-1]

    indices = batches()

    def take(steps: int) -> None:
        for index in itertools.islice(indices, steps):
            x = images[index]
            mu, logvar = model.encode(x)
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            nll = F.binary_cross_entropy_with_logits(model.decode(z), x, reduction="sum")
            kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum()
            loss = (nll + kl) / BATCH
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return take


class PILImages(Dataset):
    """One PIL image and one conversion to a tensor for each item, as torchvision's MNIST with ToTensor."""

    def __init__(self, images: Tensor) -> None:
        self.images = [Image.fromarray(image[0].numpy(), mode="L") for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        array = np.array(self.images[index], np.uint8, copy=True)
        return torch.from_numpy(array).view(28, 28, 1).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class ExampleVAE(nn.Module):
    """The network as PyTorch's example writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x.view(-1, 784)))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def usual(images: Tensor) -> Contender:
    """The usual way."""
    model = ExampleVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(PILImages((images * 255).round().to(torch.uint8)), batch_size=BATCH, shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    total = 0.0

    def take(steps: int) -> None:
        nonlocal total
        for x in itertools.islice(batches, steps):
            optimizer.zero_grad()
            recon, mu, logvar = model(x)
            bce = F.binary_cross_entropy(recon, x.view(-1, 784), reduction="sum")
            kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss = bce + kld
            loss.backward()
            total += loss.item()
            optimizer.step()

    return take


def products(images: Tensor) -> Contender:
    """Each matrix product of one step, in its own shapes: x Wᵀ + b, gᵀ x, and g W for all layers but the first."""
    calls: list[Callable[[], Tensor]] = []
    for number, (fan_in, fan_out) in enumerate(LAYERS):
        x, W, b, g = (torch.randn(shape) for shape in ((BATCH, fan_in), (fan_out, fan_in), (fan_out,), (BATCH, fan_out)))
        out, dW, dx = torch.empty(BATCH, fan_out), torch.empty(fan_out, fan_in), torch.empty(BATCH, fan_in)
        calls.append(partial(torch.addmm, b, x, W.T, out=out))
        calls.append(partial(torch.mm, g.T, x, out=dW))
        if number:
            calls.append(partial(torch.mm, g, W, out=dx))

    def take(steps: int) -> None:
        for _ in range(steps):
            for call in calls:
                call()

    return take


def measure(contenders: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[float]]:
    """Steps per second of processor time of each, one number a round; the order turns from round to round."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for take in contenders.values():
        take(5)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            contenders[name](steps)
            rates[name].append(steps / (time.process_time() - start))
    return rates


def where_time_goes(take: Contender, steps: int) -> dict[str, float]:
    """Shares of one step's time by kind of operator, from torch.profiler, whose own cost falls on "other" above all."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        take(steps)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole = sum(times.values())
    shares = {kind: sum(times.get(name, 0.0) for name in names) / whole for kind, names in KINDS.items()}
    return {kind: round(share, 3) for kind, share in (shares | {"other": 1 - sum(shares.values())}).items()}


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Median and range of the rates, and of the library's ratios to the others, taken round by round."""

    def of(values: list[float]) -> dict[str, float]:
        return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}

    ratios = {
        f"library / {name}": of([a / b for a, b in zip(rates["library"], rates[name], strict=True)])
        for name in rates
        if name != "library"
    }
    return {"steps_per_second": {name: of(values) for name, values in rates.items()}, "ratios": ratios}


def main(arguments: list[str]) -> None:
    """Measure and write the result file, unless it is there."""
    if RESULT.exists() and "--again" not in arguments:
        print(f"{RESULT} is present: skipped")
        return
    torch.set_num_threads(1)
    seed_everything(SEED)
    name = "mnist" if os.environ.get("GENIMG_DATA_DIR") else "glyphs"
    grey = datasets.load(name)
    images = datasets.to_unit(grey)
    digest = hashlib.sha256(grey.images.numpy().tobytes()).hexdigest()
    start = time.perf_counter()
    ours = library(images)
    contenders = {"library": ours, "bare": bare(images), "usual": usual(images), "products": products(images)}
    rates = measure(contenders, ROUNDS, STEPS)
    result = {
        "experiment": "vae-speed",
        "method": "MLP VAE 784-400-20, batch 128, one thread",
        "protocol": f"{ROUNDS} alternating rounds of {STEPS} steps each, processor time; median, least and largest",
        **summary(rates),
        "where_time_goes": where_time_goes(ours, STEPS),
        "matrix_products_gflop_per_second": round(GFLOP * statistics.median(rates["products"]), 1),
        "load_average": round(os.getloadavg()[0], 1),
        "provenance": provenance.collect(
            command="python -m bench.vae_speed", seed=SEED, data={"name": name, "images_sha256": digest}, steps=STEPS * ROUNDS,
            seconds=time.perf_counter() - start, modules=["bench.vae_speed"],
        ),
    }  # fmt: skip
    checkpoints.write_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps({key: result[key] for key in ("steps_per_second", "ratios", "where_time_goes")}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
