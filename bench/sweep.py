"""Chapter 14's sweep, carried on: adding and copying at growing length until all seeds of a cell break, or the lengths end.

    python -m bench.sweep adding gru          # one cell on one task: the task, then one of METHODS
    python -m bench.sweep copying             # all cells on one task

Cells, starts, seeds, batches and budgets are the chapter's; all seeds of a cell side by side. A length that is done is kept,
so a run can be stopped and taken up again; a cell whose result files are all present is skipped. Data are made. One thread.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genimg_lib import checkpoints, provenance
from genimg_lib.networks.recurrent import DiagonalLinear, MinGRU, over_time
from genimg_lib.networks.stacked import StackedLinear

RESULTS = Path("bench/results")
WORK = Path("runs/sweep")
LENGTHS = {"adding": (10, 30, 90, 180, 360, 720, 1440), "copying": (1, 5, 20, 60, 120, 240, 480, 960, 1920)}
METHODS = {
    "rnn": "RNN (tanh)",
    "lstm": "LSTM",
    "lstm-chrono": "LSTM, chrono start",
    "gru": "GRU",
    "mingru": "minGRU",
    "mingru-untold": "minGRU, not told the length",
    "diagonal": "diagonal linear",
    "diagonal-disk": "diagonal linear, not told the length",
}
BLOCKS = {"rnn": 1, "lstm": 4, "lstm-chrono": 4, "gru": 3}  # in W
SOLVED, BROKEN = 0.1, 0.5  # of the trivial answer's loss: solved is below, broken above
DISK = (0.001, 0.999)  # |λ| of the diagonal recurrence that is not told: |λ|² uniform between the squares
PROTOCOL = (
    "24 units, 24 fresh sequences an update, Adam (adding 0.01, copying 0.02) constant for half of the updates, then "
    "linearly to 0; each seed's gradient clipped to norm 1; 250 updates for adding, 600 for copying three symbols, at every "
    "length; nothing is tuned. At each length five seeds start anew. Score: the loss on 500 fresh sequences as a share of "
    "the trivial answer's; below 0.1 is solved, above 0.5 broken. A cell goes on to longer sequences until all its seeds "
    "are broken. Starts: RNN, LSTM and GRU uniform in ±1/√24; the chrono LSTM and the minGRU are told the number of steps, "
    "the diagonal recurrence too when adding; when copying its |λ| is 0.99 to 0.999 at every length. Not told: the minGRU's "
    "gates start at about ½, the diagonal recurrence's |λ|² is uniform on [0, 0.998]."
)


@dataclass(frozen=True)
class Config:
    """One cell on one task."""

    task: str
    method: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    hidden: int = 24
    batch_size: int = 24  # sequences a seed, fresh at every update
    clip: float = 1.0  # largest norm of a seed's gradient
    memorise: int = 3  # symbols to copy, of an alphabet of 8
    test: int = 500  # fresh sequences a seed
    test_batch: int = 100  # of them at a time

    @property
    def lr(self) -> float:
        return {"adding": 0.01, "copying": 0.02}[self.task]

    @property
    def updates(self) -> int:
        return {"adding": 250, "copying": 600}[self.task]

    def steps(self, T: int) -> int:
        """Of a whole sequence."""
        return T if self.task == "adding" else T + 2 * self.memorise

    def trivial(self, T: int) -> float:
        """The loss without any memory: MSE 1/6, or K log 8 nats spread over all steps."""
        return 1 / 6 if self.task == "adding" else self.memorise * math.log(8) / self.steps(T)

    def path(self, seed: int) -> Path:
        return RESULTS / f"sweep-{self.task}" / f"{self.method}-seed{seed}.json"


def adding(T: int, shape: tuple[int, ...], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (*shape, T, 2): numbers, marks; y (*shape): the sum of the two marked numbers."""
    numbers = torch.rand(*shape, T, generator=rng)
    first = torch.randint(T // 2, (*shape, 1), generator=rng)
    second = torch.randint(T // 2, T, (*shape, 1), generator=rng)
    marks = torch.zeros_like(numbers).scatter(-1, first, 1).scatter(-1, second, 1)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(-1)


def copying(T: int, shape: tuple[int, ...], rng: torch.Generator, K: int = 3) -> tuple[Tensor, Tensor]:
    """x (*shape, T + 2K, 10), one-hot; y (*shape, T + 2K): blank (8), and the K symbols at the end."""
    symbols = torch.randint(8, (*shape, K), generator=rng)
    x = torch.full((*shape, T + 2 * K), 8)
    x[..., :K], x[..., K + T - 1] = symbols, 9
    y = torch.full_like(x, 8)
    y[..., -K:] = symbols
    return F.one_hot(x, 10).float(), y


def start(config: Config, fan_in: int, steps: int) -> list[Tensor]:
    """U, W, b and for the GRU b_n' of one gated cell or the tanh network, all seeds stacked, uniform in ±1/√hidden."""
    n, k = config.hidden, BLOCKS[config.method]
    parameters = []
    for j, shape in enumerate([(fan_in, k * n), (n, k * n), (1, k * n)] + [(1, n)] * (config.method == "gru")):
        draws = [torch.rand(shape, generator=torch.Generator().manual_seed(100 * seed + j)) for seed in config.seeds]
        parameters.append((2 * torch.stack(draws) - 1) / n**0.5)
    if config.method == "lstm-chrono":
        forget = torch.log(1 + (parameters[2][..., :n] * n**0.5 + 1) / 2 * (steps - 2))
        parameters[2][..., :n], parameters[2][..., n : 2 * n] = -forget, forget
    return [p.requires_grad_() for p in parameters]


def run_cell(method: str, parameters: list[Tensor], x: Tensor) -> Tensor:
    """All states (S, B, T, hidden) of x (S, B, T, fan_in)."""
    U, W, b, *rest = parameters
    n = W.shape[1]
    h = c = x.new_zeros(*x.shape[:2], n)
    states = []
    for drive in (x.flatten(1, 2) @ U + b).unflatten(1, x.shape[1:3]).unbind(2):
        if method == "rnn":
            h = torch.tanh(torch.baddbmm(drive, h, W))
        elif method == "gru":
            seen = h @ W
            r, z = torch.sigmoid(drive[..., : 2 * n] + seen[..., : 2 * n]).chunk(2, dim=-1)
            candidate = torch.tanh(drive[..., 2 * n :] + r * (seen[..., 2 * n :] + rest[0]))
            h = (1 - z) * candidate + z * h
        else:
            i, f, candidate, o = torch.baddbmm(drive, h, W).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * candidate.tanh()
            h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, 2)


def recurrence(config: Config, fan_in: int, steps: int) -> tuple[Callable[[Tensor], Tensor], list[Tensor], int]:
    """The layer as a function, its parameters, the size of its output."""
    seeds, n = config.seeds, config.hidden
    if config.method in BLOCKS:
        parameters = start(config, fan_in, steps)
        return lambda x: run_cell(config.method, parameters, x), parameters, n
    layer: DiagonalLinear | MinGRU
    turning = config.task == "copying" and config.method.startswith("diagonal")  # complex: its output is twice as large
    if config.method.startswith("mingru"):
        layer = MinGRU(seeds, fan_in, n, memory=steps if config.method == "mingru" else 2)
    else:
        told = (0.99, 0.999) if turning else (0.9, 1 - 0.5 / steps)
        radius = told if config.method == "diagonal" else DISK
        layer = DiagonalLinear(seeds, fan_in, n, radius=radius, phase=2 * math.pi if turning else 0.0)
    layer.parallel = False  # one core: the loop is faster here
    return layer, list(layer.parameters()), 2 * n if turning else n


def network(config: Config, T: int) -> tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor]]:
    """The loss (S,) as a function of a batch, and the parameters."""
    n, seeds, steps = config.hidden, config.seeds, config.steps(T)
    embed = StackedLinear([7_000 + seed for seed in seeds], 2, n)
    layer, parameters, out = recurrence(config, n if config.task == "adding" else 10, steps)
    answer = StackedLinear([8_000 + seed for seed in seeds], out, 1 if config.task == "adding" else 9)

    def adding_loss(x: Tensor, y: Tensor) -> Tensor:
        last = layer(over_time(embed, x).relu())[:, :, -1]
        return ((answer(last)[..., 0] - y) ** 2).mean(1)

    def copying_loss(x: Tensor, y: Tensor) -> Tensor:
        logits = over_time(answer, layer(x)).movedim(-1, 1)
        return F.cross_entropy(logits, y, reduction="none").mean((1, 2))

    if config.task == "adding":
        return adding_loss, [*parameters, *embed.parameters(), *answer.parameters()]
    return copying_loss, [*parameters, *answer.parameters()]


def train(config: Config, T: int) -> Tensor:
    """Loss on fresh sequences as a share of the trivial answer's, (S,)."""
    loss_of, parameters = network(config, T)
    optimizer = torch.optim.Adam(parameters, lr=config.lr, fused=True)
    rng = torch.Generator().manual_seed(T)
    count = len(config.seeds)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        return adding(T, (count, n), rng) if config.task == "adding" else copying(T, (count, n), rng, config.memorise)

    for step in range(config.updates):
        optimizer.param_groups[0]["lr"] = config.lr * min(1, 2 - 2 * step / config.updates)
        optimizer.zero_grad()
        loss_of(*draw(config.batch_size)).sum().backward()
        slopes = [p.grad for p in parameters if p.grad is not None]
        norm = torch.stack([g.flatten(1).square().sum(1) for g in slopes]).sum(0).sqrt()  # of each seed alone
        factor = (config.clip / norm).clamp(max=1)[:, None, None]
        for slope in slopes:
            slope.mul_(factor)
        optimizer.step()
    with torch.no_grad():
        parts = [loss_of(*draw(config.test_batch)) for _ in range(config.test // config.test_batch)]
    return torch.stack(parts).mean(0) / config.trivial(T)


def sweep(config: Config) -> dict[str, Any]:
    """Shares of the trivial loss by length, and the seconds; longer and longer until all seeds break. Takes up what is done."""
    path = WORK / f"{config.task}-{config.method}.json"
    fresh: dict[str, Any] = {
        "code": provenance.source_hash(["bench.sweep"]),
        "config": repr(config),
        "shares": {},
        "seconds": 0.0,
    }
    done = json.loads(path.read_text()) if path.exists() else fresh
    if (done["code"], done["config"]) != (fresh["code"], fresh["config"]):
        done = fresh
    for T in LENGTHS[config.task]:
        if str(T) not in done["shares"]:
            begun = time.perf_counter()
            done["shares"][str(T)] = [round(share, 5) for share in train(config, T).tolist()]
            done["seconds"] += time.perf_counter() - begun
            checkpoints.write_atomically(path, json.dumps(done).encode())
            print(config.task, config.method, T, done["shares"][str(T)], file=sys.stderr, flush=True)
        if all_broken(done["shares"][str(T)]):
            break
    return done


def all_broken(shares: list[float]) -> bool:
    """Whether no seed is at half of the trivial loss or below; NaN is broken."""
    return not any(share <= BROKEN for share in shares)


def results(config: Config) -> dict[int, dict[str, Any]]:
    """The result of each seed."""
    done = sweep(config)
    shares = {int(T): values for T, values in done["shares"].items()}
    breaks = [T for T, values in shares.items() if all_broken(values)]
    found = {}
    for place, seed in enumerate(config.seeds):
        own = {T: values[place] for T, values in shares.items()}
        solved = [T for T, share in own.items() if share < SOLVED]
        broken = [T for T, share in own.items() if not share <= BROKEN]
        diverged = [T for T, share in own.items() if not math.isfinite(share)]
        found[seed] = {
            "experiment": f"sweep-{config.task}",
            "method": METHODS[config.method],
            "config": asdict(config) | {"lr": config.lr, "updates": config.updates},
            "shares": {str(T): share if math.isfinite(share) else None for T, share in own.items()},
            "longest_solved": max(solved, default=0),
            "first_broken": min(broken, default=None),
            "all_broken_at": min(breaks, default=None),
            "longest_run": max(own),
            "protocol": PROTOCOL,
            "published": None,
            "provenance": provenance.collect(
                command=f"python -m bench.sweep {config.task} {config.method}",
                seed=seed,
                data={"name": f"{config.task}, made", "T": sorted(own)},
                steps=config.updates * len(own),
                seconds=done["seconds"] / len(config.seeds),  # each one's share
                modules=["bench.sweep"],
                failed=f"not finite at T = {diverged[0]}" if diverged else None,
            ),
        }
    return found


def main(arguments: list[str]) -> None:
    """`TASK`, then methods; all of them if none is named."""
    torch.set_num_threads(1)
    task, chosen = arguments[:1], arguments[1:] or list(METHODS)
    if not task or task[0] not in LENGTHS or not set(chosen) <= set(METHODS):
        words = " ".join(arguments) or "nothing"
        raise SystemExit(f"expected {' or '.join(LENGTHS)}, then any of {', '.join(METHODS)}; got {words}")
    for method in chosen:
        config = Config(task[0], method)
        if all(config.path(seed).exists() for seed in config.seeds):
            print(f"{config.path(config.seeds[0]).parent}/{method}-seed*.json are present: skipped")
            continue
        for seed, result in results(config).items():
            checkpoints.write_atomically(config.path(seed), (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
