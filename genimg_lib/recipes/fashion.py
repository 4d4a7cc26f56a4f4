"""Fashion-MNIST: the class-conditional GAN on photographs of clothes, and the classifier that judges it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import datasets, weights
from ..datasets.files import SHA256
from ..metrics.classifier import in_batches
from ..training import seed_everything
from .base import Recipe
from .conditional import ConditionalGlyphs


@dataclass(frozen=True)
class FashionClassifier(Recipe):
    """A small classifier of Fashion-MNIST, which judges conditional-fashion. It keeps no checkpoints."""

    name: ClassVar[str] = "fashion-classifier"
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.recipes.fashion",)

    steps: int = 2_000  # updates
    lr: float = 4e-3  # the largest of a one-cycle schedule
    seed: int = 1

    def model(self) -> nn.Sequential:
        """x (B, 1, 28, 28) in [0, 1] -> logits (B, 10), untrained."""
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (B, 16, 14, 14)
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (B, 32, 7, 7)
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, 10)),
        )

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        data, start = datasets.load("fashion-mnist"), time.perf_counter()
        seed_everything(self.seed)
        model = self.model()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps, pct_start=0.1)
        generator = torch.Generator().manual_seed(self.seed)
        batches = datasets.batches(data.images, data.labels, batch_size=self.batch_size, generator=generator)
        for _, (images, labels) in zip(range(self.steps), batches, strict=False):
            loss = F.cross_entropy(model(datasets.to_unit(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return model, time.perf_counter() - start

    def score(self, model: nn.Module) -> dict[str, Any]:
        data = datasets.load("fashion-mnist", split="test")
        right = in_batches(model, datasets.to_unit(data)).argmax(1) == data.labels
        by_class = {name: round(right[data.labels == k].double().mean().item(), 4) for k, name in enumerate(data.classes)}
        how = "share of the 10,000 test images read right, of all and of each class"
        return {"accuracy": round(right.double().mean().item(), 4), "accuracy_by_class": by_class, "how": how}

    def data(self) -> dict[str, Any]:
        return fashion_data()


@dataclass(frozen=True)
class ConditionalFashion(ConditionalGlyphs):
    """The networks and the training of conditional-glyphs, on the 10 classes of Fashion-MNIST."""

    name: ClassVar[str] = "conditional-fashion"
    classes: ClassVar[int] = 10

    steps: int = 4_000  # updates of each player

    def real(self, split: str) -> tuple[Tensor, Tensor]:
        data = datasets.load("fashion-mnist", split=split)
        return data.images, data.labels

    def read(self, x: Tensor) -> Tensor:
        return in_batches(weights.load("fashion-classifier", FashionClassifier().model()), x).argmax(1)

    def data(self) -> dict[str, Any]:
        return fashion_data()


def fashion_data() -> dict[str, Any]:
    """The block that describes Fashion-MNIST's training images."""
    sha256 = {file: value for file, value in SHA256.items() if file.startswith("fashion-mnist/train")}
    return {"name": "fashion-mnist", "options": {"split": "train"}, "sha256": sha256}
