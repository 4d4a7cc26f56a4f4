"""The adding problem (Hochreiter & Schmidhuber 1997), T = 200 and 600 steps: five seeds of one method, trained side by side.

    python -m bench.adding mingru 200      # one row: diagonal, mingru, gru, lstm or rnn, and T

Training is resumed at its last checkpoint; a row whose result files are all present is skipped. Data are made. One thread.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genimg_lib import checkpoints, provenance
from genimg_lib.networks.recurrent import DiagonalLinear, MinGRU, over_time
from genimg_lib.networks.stacked import StackedLinear
from genimg_lib.training import Run, adam, make_accelerator, train

RESULTS = Path("bench/results")
WORK = Path("runs/adding")
NAMES = {"diagonal": "diagonal linear", "mingru": "minGRU", "gru": "GRU", "lstm": "LSTM", "rnn": "RNN (tanh)"}
GATED = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
LENGTHS = (200, 600)
PUBLISHED = {"lstm": 164.0, "gru": 0.053, "rnn": 177.0}  # T = 600, thousandths
BASELINE = 1 / 6  # MSE of always answering 1, the mean
PROTOCOL = (
    "At each step a number, uniform in [0, 1], and a mark, which is 1 at two steps, one in each half of the sequence, and 0 "
    "elsewhere; the target is the sum of the two marked numbers. Always answering 1 gives 167 thousandths. A linear layer with "
    "ReLU on each step, one layer of the recurrence, a linear layer on its last state; 32 units throughout. All rows: 3,000 "
    "updates on 32 fresh sequences each, Adam at 0.01 for half of them, then linearly down to 0; each seed's gradient clipped "
    "to norm 1. 10,000 fresh sequences for the score; below 1 thousandth counts as solved. Seeds 10 to 14. Pilots on other "
    "seeds: one each for the diagonal recurrence and minGRU, none for the rest, which start as in PyTorch."
)


@dataclass(frozen=True)
class Config:
    """One row: all its seeds. Every row shares everything but method and T."""

    method: str
    T: int  # steps
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    hidden: int = 32
    steps: int = 3_000  # updates
    batch_size: int = 32  # sequences, fresh at every update
    lr: float = 1e-2  # Adam's step size
    clip: float = 1.0  # largest norm of a seed's gradient
    test: int = 10_000  # fresh sequences

    def __post_init__(self) -> None:
        if self.method not in NAMES or self.T < 4:
            raise ValueError(f"got {self.method} with T = {self.T}: expected one of {', '.join(NAMES)} and four steps or more")

    @property
    def name(self) -> str:
        return f"adding-{self.method}-t{self.T}"

    def path(self, seed: int) -> Path:
        return RESULTS / f"adding-t{self.T}" / f"{self.method}-seed{seed}.json"


def sequences(shape: tuple[int, ...], T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (*shape, T, 2): numbers in [0, 1] and marks; y (*shape): the sum of the two marked numbers."""
    numbers = torch.rand(*shape, T, generator=generator)
    first = torch.randint(T // 2, (*shape, 1), generator=generator)
    second = torch.randint(T // 2, T, (*shape, 1), generator=generator)
    marks = torch.zeros_like(numbers).scatter_(-1, first, 1).scatter_(-1, second, 1)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(-1)


class SideBySide(nn.Module):
    """PyTorch's own recurrent layer, one a seed: (S, B, T, fan_in) -> (S, B, T, hidden)."""

    def __init__(self, kind: type[nn.RNNBase], seeds: Sequence[int], fan_in: int, hidden: int) -> None:
        super().__init__()
        layers = []
        for seed in seeds:
            torch.manual_seed(seed)
            layers.append(kind(fan_in, hidden, batch_first=True))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(each)[0] for layer, each in zip(self.layers, x, strict=True)])


class Adder(nn.Module):
    """A linear layer and ReLU per step, a recurrence, a linear layer on its last state: x (S, B, T, 2) -> (S, B)."""

    def __init__(self, method: str, seeds: Sequence[int], hidden: int, T: int) -> None:
        super().__init__()
        inner, outer = [1000 * seed + 1 for seed in seeds], [1000 * seed + 2 for seed in seeds]
        self.embed = StackedLinear([1000 * seed for seed in seeds], 2, hidden)
        self.recurrence: nn.Module
        if method == "diagonal":
            self.recurrence = DiagonalLinear(inner, hidden, hidden, radius=(0.9, 1 - 0.5 / T))
        elif method == "mingru":
            self.recurrence = MinGRU(inner, hidden, hidden, memory=T)
        else:
            self.recurrence = SideBySide(GATED[method], inner, hidden, hidden)
        if isinstance(self.recurrence, DiagonalLinear | MinGRU):
            self.recurrence.parallel = False  # one core, 5,120 numbers a step: the loop is the faster of the two
        self.answer = StackedLinear(outer, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.recurrence(torch.relu(over_time(self.embed, x)))
        return self.answer(h[:, :, -1])[..., 0]

    def clip(self, largest: float) -> None:
        """Shorten the gradient of each seed alone to the given norm."""
        count = len(self.embed.weight)
        for place in range(count):
            inner = self.recurrence.layers[place].parameters() if isinstance(self.recurrence, SideBySide) else ()
            stacked = [p for p in self.parameters() if len(p) == count and p.dim() == 3]
            gradients = [p.grad[place] for p in stacked if p.grad is not None]
            gradients += [p.grad for p in inner if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
            for gradient in gradients:
                gradient.mul_((largest / norm.clamp_min(1e-12)).clamp_max(1))


def report(row: dict[str, float]) -> None:
    """One line of progress."""
    print(json.dumps({key: float(f"{value:.4g}") for key, value in row.items()}), file=sys.stderr, flush=True)


def fit(config: Config) -> tuple[Adder, Run, str | None]:
    """The trained networks of one row, their run, and None or why it failed; takes up the last checkpoint."""
    model = Adder(config.method, config.seeds, config.hidden, config.T)
    optimizer = adam(model.parameters(), lr=config.lr)
    generator = torch.Generator().manual_seed(20_000 + config.T)
    run = Run(config.name, {"model": model}, {"adam": optimizer}, {"data": generator})

    def step_fn(_: Tensor) -> dict[str, Tensor]:
        optimizer.param_groups[0]["lr"] = config.lr * min(1.0, 2 - 2 * run.step / config.steps)
        x, y = sequences((len(config.seeds), config.batch_size), config.T, generator)
        loss = ((model(x) - y) ** 2).mean(1)  # (S,)
        optimizer.zero_grad()
        loss.sum().backward()
        model.clip(config.clip)
        optimizer.step()
        return {f"mse, seed {seed}": value for seed, value in zip(config.seeds, loss.detach(), strict=True)}

    try:
        train(
            run, step_fn, torch.zeros(1), steps=config.steps, batch_size=1, seed=0, accelerator=make_accelerator(cpu=True),
            log_every=100, directory=WORK / config.name, save_every=500, on_log=report,
        )  # fmt: skip
    except FloatingPointError as error:
        return model, run, f"a seed of this row diverged: {error}"
    return model, run, None


@torch.no_grad()
def score(config: Config, model: Adder, piece: int = 500) -> Tensor:
    """The mean squared error of each seed on fresh sequences, the same for all methods: (S,)."""
    generator, total = torch.Generator().manual_seed(40_000 + config.T), torch.zeros(len(config.seeds))
    for _ in range(config.test // piece):
        x, y = sequences((piece,), config.T, generator)
        total += ((model(x.expand(len(config.seeds), *x.shape)) - y) ** 2).mean(1)
    return total / (config.test // piece)


def results(config: Config) -> dict[int, dict[str, Any]]:
    """Train and score one row: for each seed what was done, and the published number where there is one."""
    model, run, failed = fit(config)
    scores = [None] * len(config.seeds) if failed else score(config, model).tolist()
    published = PUBLISHED.get(config.method) if config.T == 600 else None
    weights = sum(p.numel() for p in model.parameters()) // len(config.seeds)
    return {
        seed: {
            "experiment": f"adding-t{config.T}",
            "method": NAMES[config.method],
            "config": {**asdict(config), "seeds": list(config.seeds)},
            "mse_thousandths": None if mse is None else round(1000 * mse, 4),
            "solved": mse is not None and mse < 1e-3,
            "parameters": weights,
            "protocol": PROTOCOL,
            "published": published
            and {
                "paper": "Bai, Kolter & Koltun (2018), An Empirical Evaluation of Generic Convolutional and Recurrent Networks",
                "table": "Table 1, adding problem, T = 600",
                "protocol": "networks of about 70,000 parameters, the best of a search over settings",
                "value": published,
            },
            "history": [{"step": row["step"], "mse": row[f"mse, seed {seed}"]} for row in run.history],
            "provenance": provenance.collect(
                command=f"python -m bench.adding {config.method} {config.T}",
                seed=seed,
                data={"name": "adding problem, made", "T": config.T},
                steps=run.step,
                seconds=run.seconds,  # of the five seeds together
                modules=["bench.adding"],
                failed=failed,
            ),
        }
        for seed, mse in zip(config.seeds, scores, strict=True)
    }


def main(arguments: list[str]) -> None:
    """`METHOD T`."""
    torch.set_num_threads(1)
    if len(arguments) != 2 or arguments[0] not in NAMES or arguments[1] not in map(str, LENGTHS):
        words = " ".join(arguments) or "nothing"
        raise SystemExit(f"expected one of {', '.join(NAMES)}, then {' or '.join(map(str, LENGTHS))}; got {words}")
    config = Config(arguments[0], int(arguments[1]))
    if all(config.path(seed).exists() for seed in config.seeds):
        print(f"{config.path(config.seeds[0]).parent}/{config.method}-seed*.json are present: skipped")
        return
    for seed, result in results(config).items():
        checkpoints.write_atomically(config.path(seed), (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
