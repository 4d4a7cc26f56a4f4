"""Classifiers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ..metrics import classifier
from .base import Recipe, glyphs_data


@dataclass(frozen=True)
class GlyphClassifierRecipe(Recipe):
    """The book's own classifier and feature network. It keeps no checkpoints."""

    name: ClassVar[str] = "glyph-classifier"
    modules: ClassVar[tuple[str, ...]] = ("genimg_lib.metrics.classifier",)

    steps: int = 3000  # updates
    lr: float = 3e-3  # the largest of a one-cycle schedule
    seed: int = 1

    def fit(self, directory: Path) -> tuple[nn.Module, float]:
        start = time.perf_counter()
        model = classifier.train_classifier(steps=self.steps, batch_size=self.batch_size, lr=self.lr, seed=self.seed)
        return model, time.perf_counter() - start

    def score(self, model: nn.Module) -> dict[str, Any]:
        return classifier.evaluate_classifier(model)

    def data(self) -> dict[str, Any]:
        return glyphs_data(seed=f"{self.seed} and up, a new one every 60,000 images")
