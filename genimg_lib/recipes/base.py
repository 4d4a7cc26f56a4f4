"""What every recipe has: run, resume, write weights with their provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from .. import datasets, weights
from ..checkpoints import CheckpointError, latest
from ..datasets.glyphs import ATLAS
from ..provenance import collect
from ..training import Run, adam, make_accelerator, train

BINARISATION = "stochastic, anew for each batch"


@dataclass(frozen=True)
class Recipe:
    """What every recipe has: how long, how fast, from which seed; `name` and what it trains are the subclass's."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.networks.vae", "genimg_lib.training")  # whose source decides the result

    steps: int  # updates
    batch_size: int = 128  # images
    lr: float = 1e-3  # Adam's step size, constant for half the updates, then linearly down to 0
    seed: int = 0

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        """The trained model and the seconds it took; checkpoints in `directory`."""
        raise NotImplementedError

    def score(self, model: nn.Module) -> dict[str, Any]:
        """What the weights' JSON carries, with how it is measured."""
        raise NotImplementedError

    def data(self) -> dict[str, Any]:
        """The data's name, options and SHA-256."""
        raise NotImplementedError

    def command(self) -> str:
        """The command that runs exactly this recipe."""
        words = ["genimg train", self.name]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                given = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words.append(f"--{field.name.replace('_', '-')} {given}")
        return " ".join(words)

    def run(self, out: Path, resume: bool = False) -> Path:
        """Train, score, write out/NAME.safetensors and out/NAME.json. Raises CheckpointError if `resume` does not fit `out`."""
        directory = out / self.name
        found = latest(directory)
        if found and not resume:
            raise CheckpointError(f"{found} is there already: add --resume to go on from it, or choose another --out")
        if resume and not found:
            raise CheckpointError(f"nothing to resume: no checkpoint in {directory}; leave --resume out, or correct --out")
        model, seconds = self.fit(directory)
        block = collect(
            command=self.command(), seed=self.seed, data=self.data(), steps=self.steps, seconds=seconds, modules=self.modules
        )
        block["recipe"] = asdict(self)
        return weights.store(self.name, model, block, self.score(model.eval()), out)

    def _train(
        self, model: nn.Module, step: Callable[..., Mapping[str, Tensor]], images: Tensor, directory: Path
    ) -> tuple[nn.Module, float]:
        """`train` with `step(model, optimizer, x, accelerator)`, images binarised anew, and the step size described above."""
        accelerator = make_accelerator()
        prepared, optimizer = accelerator.prepare(model, adam(model.parameters(), self.lr))
        run = Run(repr(self), {"model": prepared}, {"adam": optimizer})

        def step_fn(grey: Tensor) -> Mapping[str, Tensor]:
            optimizer.param_groups[0]["lr"] = self.lr * min(1.0, 2 * (1 - run.step / self.steps))
            return step(prepared, optimizer, datasets.binarize(datasets.to_unit(grey)), accelerator)

        train(
            run, step_fn, images.to(accelerator.device), steps=self.steps, batch_size=self.batch_size, seed=self.seed,
            accelerator=accelerator, directory=directory, progress=True,
        )  # fmt: skip
        return model.cpu(), run.seconds


def glyphs_data(**options: Any) -> dict[str, Any]:
    """The block that describes 60,000 training glyphs."""
    options = {"n": 60_000, "size": 28, "fonts": "train"} | options
    return {"name": "glyphs", "options": options, "atlas_sha256": hashlib.sha256(ATLAS.read_bytes()).hexdigest()}
