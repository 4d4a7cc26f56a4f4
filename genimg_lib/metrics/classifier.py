"""The book's own glyph classifier; its features are the book's feature network.

    model = weights.load("glyph-classifier", GlyphClassifier())
    features = in_batches(model.features, x)  # (N, 64)

A distance of these features is a "Fréchet feature distance"; it is never to be set beside a published FID, which uses
the features of Inception.
"""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genimg_lib import datasets
from genimg_lib.datasets.glyphs import ALPHABET
from genimg_lib.datasets.tensors import check_unit_interval

CASELESS = tuple(dict.fromkeys(ALPHABET.upper()))  # 36 classes: the digits and the letters, s and S alike
EPOCH = 60_000  # images drawn at a time, each time anew


class GlyphClassifier(nn.Module):
    """62 classes of 28 x 28 grey glyphs; a few convolutions, 64 features, one linear read-out."""

    def __init__(self, feature_dim: int = 64, classes: int = len(ALPHABET)) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (B, 16, 14, 14)
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (B, 32, 7, 7)
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(64, 48, 3, padding=1), nn.ReLU(), nn.Flatten()),
            nn.Linear(48 * 7 * 7, feature_dim),
        )
        self.head = nn.Linear(feature_dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """x (B, 1, 28, 28) in [0, 1] -> features (B, 64), before the last ReLU. ValueError for another shape."""
        if x.dim() != 4 or x.shape[1:] != (1, 28, 28):
            raise ValueError(f"images are {tuple(x.shape)}: expected grey images (B, 1, 28, 28)")
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 1, 28, 28) in [0, 1] -> logits (B, 62), in the order of glyphs.ALPHABET."""
        return self.head(F.relu(self.features(x)))


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 500) -> Tensor:
    """function (the model, or its `features`) of many images in [0, 1], without gradients, on the images' device.

    Raises TypeError or ValueError for images that are not floats in [0, 1] (NaN, grey levels up to 255).
    """
    check_unit_interval(images, "images")
    return torch.cat([function(part) for part in images.split(batch_size)])


def read_out(logits: Tensor, classes: str = "all") -> Tensor:
    """The most probable class (B,) given logits (B, 62).

    "all": index into ALPHABET. "caseless": index into CASELESS, the probabilities of s and S added. "digits": the
    best of the ten digits, for a model of digits only. At a random scale o, O and 0, or s and S, look alike, so the
    accuracy over all 62 says as much about the alphabet as about the images.
    """
    if classes == "digits":
        return logits[:, :10].argmax(1)
    if classes == "caseless":
        upper, lower = logits[:, 10:36], logits[:, 36:]
        return torch.cat([logits[:, :10], torch.logaddexp(upper, lower)], 1).argmax(1)
    if classes == "all":
        return logits.argmax(1)
    raise ValueError(f"classes={classes!r}: expected 'all', 'caseless' or 'digits'")


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts (classes, classes) int64: row is the true class, column the predicted one."""
    if labels.shape != predicted.shape or labels.dim() != 1:
        raise ValueError(f"labels {tuple(labels.shape)}, predicted {tuple(predicted.shape)}: expected (N,) twice")
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def train_classifier(
    *, steps: int, batch_size: int, lr: float, seed: int, log: Callable[[int, float], None] | None = None
) -> GlyphClassifier:
    """Train on the training fonts with Adam and a one-cycle learning rate; cross-entropy, mean over the batch, nats.

    The images are drawn anew every 60,000, with data seeds seed, seed + 1, ... log(step, loss) is called every 100.
    """
    torch.manual_seed(seed)
    model = GlyphClassifier()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    step, data_seeds = 0, count(seed)
    while step < steps:
        data = datasets.load("glyphs", n=EPOCH, seed=next(data_seeds))
        for images, labels in datasets.batches(data.images, data.labels, batch_size=batch_size, generator=generator, epochs=1):
            loss = F.cross_entropy(model(datasets.to_unit(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if log is not None and step % 100 == 0:
                log(step, loss.item())
            if step == steps:
                break
    return model.eval()


def evaluate_classifier(model: nn.Module, n: int = 20_000) -> dict[str, Any]:
    """Scores on n glyphs of the held-out fonts (test split, seed 0): accuracies, and what was taken for what, how often.

    "confusion" maps a true character to {predicted character: count}, zeros left out; `confusion_of` makes the matrix.
    """
    data = datasets.load("glyphs", split="test", n=n)
    logits = in_batches(model, datasets.to_unit(data))
    caseless = torch.tensor([CASELESS.index(c.upper()) for c in ALPHABET])
    digit = data.labels < 10
    counts = confusion_matrix(data.labels, read_out(logits), len(ALPHABET))
    return {
        "accuracy": _share(read_out(logits) == data.labels),
        "accuracy_caseless": _share(read_out(logits, "caseless") == caseless[data.labels]),
        "accuracy_digits": _share(read_out(logits[digit], "digits") == data.labels[digit]),
        "how": f"share of {n} glyphs of the test split (held-out fonts, seed 0), by metrics.classifier.evaluate_classifier",
        "confusion": {
            true: {ALPHABET[j]: int(row[j]) for j in row.nonzero().flatten()}
            for true, row in zip(ALPHABET, counts, strict=True)
        },
    }


def confusion_of(score: Mapping[str, Any]) -> Tensor:
    """The counts (62, 62) int64 of a score from `evaluate_classifier`; row: true, column: predicted."""
    counts = torch.zeros(len(ALPHABET), len(ALPHABET), dtype=torch.int64)
    for true, row in score["confusion"].items():
        for predicted, number in row.items():
            counts[ALPHABET.index(true), ALPHABET.index(predicted)] = number
    return counts


def _share(correct: Tensor) -> float:
    return correct.double().mean().item()
