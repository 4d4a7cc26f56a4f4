"""Exact likelihood of binarised MNIST under an autoregressive model: a recurrence over rows, masked layers inside each row.

    python -m bench.binarised_mnist           # training, then the exact test NLL, then the result file
    python -m bench.binarised_mnist --train   # the training only

Training is resumed at its last checkpoint; a run whose result file is present is skipped. Needs MNIST (GENIMG_DATA_DIR, or a
download). One thread. The test images are binarised as `bench.iwae_mnist` binarises them, with the same seed.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.iwae_mnist import binarized, flat, report
from genimg_lib import checkpoints, datasets, provenance
from genimg_lib.datasets.files import SHA256
from genimg_lib.training import Run, adam, make_accelerator, seed_everything, train

RESULTS = Path("bench/results/binarised-mnist")
WORK = Path("runs/binarised-mnist")
SIDE = 28  # pixels
PROTOCOL = (
    "MNIST training images binarised anew for every batch, the 10,000 test images once with a fixed seed, the same bits as in "
    "the rows of iwae-mnist. The NLL is exact: the chain rule over pixels, row by row, no sampling, no bound. The last 2,000 "
    "of the 60,000 training images were kept for validation, and choices were made there (four pilots of a minute each). The "
    "test set was scored once. The weights scored are the running average at the last step. No augmentation."
)


@dataclass(frozen=True)
class Config:
    """The one row."""

    steps: int = 3000  # updates; the step size falls linearly to 0 over the second half
    batch_size: int = 50  # images
    lr: float = 3e-3  # Adam's step size
    clip: float = 30.0  # largest norm of the gradient of the mean NLL
    ema: float = 0.999  # decay of the running average of the weights
    state: int = 320  # units of the recurrence over rows
    features: int = 32  # numbers kept for every pixel
    reach: int = 4  # rows up and columns to either side that the local features see
    width: int = 96  # hidden units of the layer that mixes a pixel's features
    validation: int = 2000  # of the training images
    seed: int = 0

    @property
    def name(self) -> str:
        return f"row-recurrence-seed{self.seed}"


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """y[:, r, c] = x[:, r - down, c - right], zeros from outside; x (B, H, W, C), down >= 0."""
    rows, columns = x.shape[1:3]
    x = F.pad(x, (0, 0, max(0, right), max(0, -right), down, 0))
    return x[:, :rows, max(0, -right) : max(0, -right) + columns]


class RowRecurrence(nn.Module):
    """Logits of p(x_i = 1 | earlier pixels), row by row from the top left.

    A pixel's features add up four parts: the state of a GRU that has read the rows above; a causal window of pixels above and
    to the left; a triangular linear map of its own row to the left; a bias for each place. One residual layer mixes them.
    """

    def __init__(self, config: Config, mean: Tensor) -> None:
        super().__init__()
        C, reach = config.features, config.reach
        above = [(d, r) for d in range(1, reach + 1) for r in range(-reach, reach + 1)]
        self.window = above + [(0, r) for r in range(1, reach + 1)]  # (down, right) by which a pixel is moved to be seen
        self.rows = nn.GRU(SIDE, config.state, batch_first=True)
        self.context = nn.Linear(config.state, SIDE * C)
        self.local = nn.Linear(len(self.window), C, bias=False)
        self.left = nn.Parameter(0.1 * torch.randn(SIDE, SIDE * C))
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(SIDE, SIDE).triu(1).repeat_interleave(C, 1))  # from pixel j to i > j
        self.mix = nn.Sequential(nn.ReLU(), nn.Linear(C, config.width), nn.ReLU(), nn.Linear(config.width, C))
        self.out = nn.Linear(C, 1)
        self.place = nn.Parameter(mean.clamp(1e-3, 1 - 1e-3).logit().view(SIDE, SIDE))  # (784,) share of ones -> logits

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 784) in {0, 1} -> logits (B, 784)."""
        image = x.view(-1, SIDE, SIDE)
        before = F.pad(image, (0, 0, 1, 0))[:, :-1]  # the row above each row
        features = self.context(self.rows(before)[0]).view(len(x), SIDE, SIDE, -1)
        features = features + (image @ (self.left * self.mask)).view_as(features)
        features = features + self.local(torch.cat([shifted(image[..., None], *move) for move in self.window], -1))
        features = features + self.mix(features)
        return (self.out(F.relu(features))[..., 0] + self.place).flatten(1)


def nll(model: nn.Module, x: Tensor) -> Tensor:
    """-log p(x), exact, nats: (B, 784) -> (B,)."""
    return F.binary_cross_entropy_with_logits(model(x), x, reduction="none").sum(1)


@torch.no_grad()
def score(model: nn.Module, x: Tensor) -> Tensor:
    """`nll` in pieces, float64 (N,)."""
    return torch.cat([nll(model, piece).double() for piece in x.split(500)])


def fit(config: Config) -> tuple[AveragedModel, Run, Tensor]:
    """The averaged model, its run, and the NLL of the validation images; takes up a checkpoint."""
    seed_everything(config.seed)
    accelerator = make_accelerator(cpu=True)
    images = flat(datasets.load("mnist").images)
    images, held_out = images[: -config.validation], images[-config.validation :]
    model = RowRecurrence(config, images.float().mean(0) / 255)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    optimizer = adam(model.parameters(), lr=config.lr)
    run = Run(recipe=config.name, modules={"model": model, "averaged": averaged}, optimizers={"adam": optimizer})

    def step_fn(grey: Tensor) -> dict[str, Tensor]:
        optimizer.param_groups[0]["lr"] = config.lr * min(1.0, 2 * (1 - run.step / config.steps))
        loss = nll(model, binarized(grey)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        averaged.update_parameters(model)
        return {"nll": loss.detach()}

    train(
        run, step_fn, images, steps=config.steps, batch_size=config.batch_size, seed=config.seed, accelerator=accelerator,
        log_every=100, directory=WORK / config.name, save_every=200, on_log=report,
    )  # fmt: skip
    return averaged, run, score(averaged, binarized(held_out, torch.Generator().manual_seed(1)))


def result(config: Config) -> dict[str, Any]:
    """Train, score, and say what was done beside the published number."""
    averaged, run, validation = fit(config)
    x = binarized(flat(datasets.load("mnist", split="test").images), torch.Generator().manual_seed(1_000 + config.seed))
    test = score(averaged, x)
    images = {name: sha for name, sha in SHA256.items() if name.startswith("mnist/") and "images" in name}
    return {
        "experiment": "binarised-mnist",
        "method": "row recurrence (exact)",
        "config": asdict(config),
        "parameters": sum(p.numel() for p in averaged.module.parameters()),
        "test_nll_nats": round(test.mean().item(), 3),
        "standard_error_over_images": round((test.std() / len(test) ** 0.5).item(), 3),
        "test_images": len(test),
        "validation_nll_nats": round(validation.mean().item(), 3),
        "train_nll_nats": round(run.history[-1]["nll"], 3),
        "protocol": f"{config.steps} updates, batch {config.batch_size}, Adam at {config.lr:g}, falling linearly to 0 over the "
        "second half. " + PROTOCOL,
        "published": {
            "paper": "van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel Recurrent Neural Networks",
            "table": "the MNIST table, PixelCNN",
            "protocol": "fixed binarisation, exact",
            "value": 81.30,
        },
        "gap_nats": round(test.mean().item() - 81.30, 3),
        "history": run.history,
        "provenance": provenance.collect(
            command="python -m bench.binarised_mnist",
            seed=config.seed,
            data={"name": "mnist", "binarisation": "stochastic, anew for each batch", "sha256": images},
            steps=config.steps,
            seconds=run.seconds,
            modules=["bench.binarised_mnist"],
        ),
    }


def main(arguments: list[str]) -> None:
    """`--train` stops before the score."""
    torch.set_num_threads(1)
    if set(arguments) - {"--train"}:
        raise SystemExit(f"expected nothing or --train; got {' '.join(arguments)}")
    config = Config()
    path = RESULTS / f"{config.name}.json"
    if path.exists():
        print(f"{path} is present: skipped")
    elif arguments:
        fit(config)
    else:
        checkpoints.write_atomically(path, (json.dumps(result(config), indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
