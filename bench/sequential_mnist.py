"""MNIST read as a sequence: row by row (28 steps of 28 pixels), or pixel by pixel (784 steps of one).

    python -m bench.sequential_mnist lstm     # three seeds of one method: by row lstm, gru, rnn, mingru; by pixel diagonal

Training is resumed at its last checkpoint; a seed whose result file is present is skipped. Needs MNIST (GENIMG_DATA_DIR, or
a download). One thread.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genimg_lib import checkpoints, datasets, provenance
from genimg_lib.datasets.files import SHA256
from genimg_lib.networks.recurrent import DiagonalLinear, MinGRU
from genimg_lib.training import Run, adam, make_accelerator, seed_everything, train

RESULTS = Path("bench/results")
WORK = Path("runs/sequential-mnist")
NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN (tanh)", "mingru": "minGRU", "diagonal": "diagonal linear, complex"}
TORCH = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
VALIDATION = 5_000  # the last of the training images: never trained on
PROTOCOL = {
    28: "28 steps of 28 pixels. One recurrent layer of 128 units, a linear layer on its last state. 8 epochs, batches "
    "of 100, Adam at 0.002, then linearly down to 0 over the second half; gradient clipped to norm 1.",
    784: "784 steps of one pixel. One layer of 128 complex units h_t = λ h_{t-1} + γ (w x_t + b), λ near the unit circle "
    "(modulus 0.99 to 0.9999 at the start, any angle), then 256 ReLU units on the last state. As λ is the same at all steps, "
    "that state is one product of the picture and the powers of λ, and so it is computed. 20 epochs, batches of 100, Adam at "
    "0.002, then linearly down to 0 over the second half; gradient clipped to norm 1.",
}
SPLIT = (
    " Trained on the first 55,000 training images; the last 5,000 are the validation set. Test accuracy is that of the last "
    "update. Pilots, scored on the validation set: one epoch each for GRU, minGRU and the diagonal recurrence. Seeds 10 to 12."
)


@dataclass(frozen=True)
class Config:
    """One seed of one row."""

    method: str
    seed: int
    hidden: int = 128
    batch_size: int = 100  # pictures
    lr: float = 2e-3  # Adam's step size
    clip: float = 1.0  # largest norm of the gradient

    @property
    def T(self) -> int:
        return 784 if self.method == "diagonal" else 28

    @property
    def epochs(self) -> int:
        return 20 if self.method == "diagonal" else 8

    @property
    def name(self) -> str:
        return f"mnist-t{self.T}-{self.method}-seed{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / ("mnist-by-row" if self.T == 28 else "mnist-by-pixel") / f"{self.method}-seed{self.seed}.json"


class ByRow(nn.Module):
    """Logits (B, 10) of pictures (B, 784) in [0, 1], read as 28 rows from the top."""

    def __init__(self, method: str, seed: int, hidden: int) -> None:
        super().__init__()
        stacked = method == "mingru"
        self.recurrence = MinGRU([seed], 28, hidden, memory=28) if stacked else TORCH[method](28, hidden, batch_first=True)
        self.answer = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (28, 28))
        h = self.recurrence(x[None])[0] if isinstance(self.recurrence, MinGRU) else self.recurrence(x)[0]
        return self.answer(h[:, -1])


class ByPixel(nn.Module):
    """Logits (B, 10) of pictures (B, 784) in [0, 1], read pixel by pixel by a diagonal linear recurrence."""

    def __init__(self, seed: int, hidden: int) -> None:
        super().__init__()
        self.recurrence = DiagonalLinear([seed], 1, hidden, radius=(0.99, 0.9999), phase=torch.pi)
        self.answer = nn.Sequential(nn.Linear(2 * hidden, 256), nn.ReLU(), nn.Linear(256, 10))

    def last_state(self, x: Tensor) -> Tensor:
        """h_T = Σ_t λ^{T-t} γ (w x_t + b), (B, 2 hidden): the layer's output at the last step, in one product."""
        angle, log_modulus = self.recurrence.theta[0], -self.recurrence.nu[0].exp()  # (1, hidden)
        k = torch.arange(x.shape[1] - 1, -1, -1, dtype=x.dtype)[:, None]  # steps back, (T, 1)
        powers = torch.polar((k * log_modulus).exp(), k * angle) * self.recurrence.gamma[0]  # (T, hidden)
        weight = torch.complex(*self.recurrence.drive.weight[0, 0].chunk(2))  # (hidden,)
        bias = torch.complex(*self.recurrence.drive.bias[0, 0].chunk(2))
        read = torch.view_as_real(powers * weight).flatten(1)  # (T, 2 hidden): re, im of each unit
        offset = torch.view_as_real((powers * bias).sum(0)).flatten()
        return (x @ read + offset).unflatten(1, (-1, 2)).movedim(2, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.last_state(x))


def report(row: dict[str, float]) -> None:
    """One line of progress."""
    print(json.dumps({key: float(f"{value:.4g}") for key, value in row.items()}), file=sys.stderr, flush=True)


def labelled(split: str) -> Tensor:
    """uint8 (N, 785): pixels, then the label."""
    data = datasets.load("mnist", split=split)
    return torch.cat([data.images.flatten(1), data.labels[:, None].to(torch.uint8)], 1)


def fit(config: Config) -> tuple[nn.Module, Run, str | None]:
    """The trained model of one seed, its run, and None or why it failed; takes up the last checkpoint."""
    seed_everything(config.seed)
    pixels = config.T == 784
    model = ByPixel(config.seed, config.hidden) if pixels else ByRow(config.method, config.seed, config.hidden)
    optimizer = adam(model.parameters(), lr=config.lr)
    run = Run(config.name, {"model": model}, {"adam": optimizer})
    images = labelled("train")[:-VALIDATION]
    steps = config.epochs * (len(images) // config.batch_size)

    def step_fn(batch: Tensor) -> dict[str, Tensor]:
        optimizer.param_groups[0]["lr"] = config.lr * min(1.0, 2 - 2 * run.step / steps)
        loss = F.cross_entropy(model(batch[:, :784].float() / 255), batch[:, 784].long())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return {"loss": loss.detach()}

    try:
        train(
            run, step_fn, images, steps=steps, batch_size=config.batch_size, seed=config.seed,
            accelerator=make_accelerator(cpu=True), log_every=550, directory=WORK / config.name, save_every=1100, on_log=report,
        )  # fmt: skip
    except FloatingPointError as error:
        return model, run, str(error)
    return model, run, None


@torch.no_grad()
def accuracy(model: nn.Module, data: Tensor) -> float:
    """Per cent of labelled pictures (N, 785) whose largest logit is the right one."""
    hits = [(model(part[:, :784].float() / 255).argmax(1) == part[:, 784]).sum() for part in data.split(1_000)]
    return 100 * float(torch.stack(hits).sum()) / len(data)


def result(config: Config) -> dict[str, Any]:
    """Train and score one seed, and say what was done."""
    model, run, failed = fit(config)
    scores = (None, None) if failed else (accuracy(model, labelled("test")), accuracy(model, labelled("train")[-VALIDATION:]))
    images = {name: sha for name, sha in SHA256.items() if name.startswith("mnist/")}
    return {
        "experiment": config.path.parent.name,
        "method": NAMES[config.method],
        "config": {**asdict(config), "T": config.T, "epochs": config.epochs},
        "test_accuracy_percent": scores[0],
        "validation_accuracy_percent": scores[1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "protocol": PROTOCOL[config.T] + SPLIT,
        "history": run.history,
        "provenance": provenance.collect(
            command=f"python -m bench.sequential_mnist {config.method}",
            seed=config.seed,
            data={"name": "mnist", "sha256": images},
            steps=run.step,
            seconds=run.seconds,
            modules=["bench.sequential_mnist"],
            failed=failed,
        ),
    }


def main(arguments: list[str]) -> None:
    """`METHOD`."""
    torch.set_num_threads(1)
    if len(arguments) != 1 or arguments[0] not in NAMES:
        raise SystemExit(f"expected one of {', '.join(NAMES)}; got {' '.join(arguments) or 'nothing'}")
    for seed in (10, 11, 12):
        config = Config(arguments[0], seed)
        if config.path.exists():
            print(f"{config.path} is present: skipped")
        else:
            checkpoints.write_atomically(config.path, (json.dumps(result(config), indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
