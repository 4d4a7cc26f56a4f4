"""One call for every data set: `load(name)`, and `points(name)` for the 2-D toys.

data = datasets.load("glyphs", split="test")
x = datasets.to_unit(data)  # (N, C, H, W) float32 in [0, 1]
for batch in datasets.batches(x, batch_size=128, generator=generator, epochs=1): ...
"""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genimg_lib.datasets import files, folder, formats, glyphs
from genimg_lib.datasets.tensors import batches, binarize, check_unit_interval, to_unit
from genimg_lib.datasets.toys import PointDataset, points

__all__ = ["NAMES", "ImageDataset", "PointDataset", "batches", "binarize", "check_unit_interval", "load", "points", "to_unit"]

NAMES = ("glyphs", "digits", "mnist", "fashion-mnist", "cifar-10")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ImageDataset:
    """Images with what is known about them; `len(data)` is the number of images."""

    images: Tensor  # uint8 (N, C, H, W), grey levels 0 .. levels - 1
    labels: Tensor  # int64 (N,), index into classes
    classes: tuple[str, ...]
    name: str
    levels: int = 256  # number of grey levels: 256, or 17 for digits
    factors: dict[str, Tensor] = field(default_factory=dict)  # each (N, ...); empty where unknown

    def __len__(self) -> int:
        return len(self.images)


def load(
    name: str | Path,
    *,
    split: str = "train",
    n: int | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> ImageDataset:
    """Load a data set by name, or a folder of images by its path.

    | name | images of each split | |
    |---|---|---|
    | glyphs | as many as asked: 60,000 / 10,000 | 1 or 3 x size x size, procedural, no file needed |
    | digits | 1,500 / 297 | 1 x 8 x 8, real scans with 17 grey levels, no download |
    | mnist, fashion-mnist | 60,000 / 10,000 | 1 x 28 x 28 |
    | cifar-10 | 50,000 / 10,000 | 3 x 32 x 32 |
    | a path, e.g. "./cats" | all but every tenth / every tenth | 1 or 3 x size x size; sub-folders are the classes |

    split: "train" or "test". n: the first n images; None for all. device: where the tensors are to live.
    Options of glyphs: size=28, color=False, seed=0, characters (a string; default 0-9 A-Z a-z), fonts ("train",
    "test", "all" or a tuple of names; default: those of the split, so that test images use held-out fonts).
    Its factors: character and font (indices into glyphs.ALPHABET and glyphs.FONTS), angle (degrees), shear, scale,
    shift (share of the side; right, down) and, with color=True, foreground and background (RGB, 0..255).
    Options of a folder: size=28, color=False.
    Files are looked for in GENIMG_DATA_DIR, then in the cache, then downloaded (see `files.fetch`).
    Raises ValueError (unknown name, split, option or value), TypeError (wrong option), OSError (file not to be had).
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: expected 'train' or 'test'")
    if n is not None and n < 1:
        raise ValueError(f"n={n}: expected at least 1 image, or None for all")
    allowed = {"glyphs": {"size", "color", "seed", "characters", "fonts"}, "folder": {"size", "color"}}
    kind = str(name) if str(name) in NAMES else "folder"
    if kind == "folder" and not Path(name).is_dir():
        near = get_close_matches(str(name).lower(), NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown data set {str(name)!r}: {hint}expected one of {NAMES}, or the path of a folder of images")
    wrong = sorted(set(options) - allowed.get(kind, set()))
    if wrong:
        known = sorted(allowed.get(kind, set())) or "none beside split, n and device"
        raise TypeError(f"load({str(name)!r}) got unknown options {wrong}: expected {known}")
    device = torch.device(device) if device is not None else None

    if kind == "glyphs":
        count = n or (60_000 if split == "train" else 10_000)
        images, labels, classes, factors = glyphs.load(split, count, device, **options)
        return ImageDataset(images, labels, classes, "glyphs", factors=factors)

    levels = 256
    if kind == "digits":
        images, labels, classes = *_digits(split), tuple("0123456789")
        levels = 17
    elif kind == "cifar-10":
        images, labels, classes = *formats.read_cifar(files.fetch(kind, "cifar-10-binary.tar.gz"), split), CIFAR
    elif kind == "folder":
        images, labels, classes = folder.read(Path(name), split, **options)
    else:
        images, labels = _idx_pair(kind, split)
        classes = FASHION if kind == "fashion-mnist" else tuple("0123456789")
    if n is not None and n > len(images):
        raise ValueError(f"n={n}: {name!r} has {len(images)} {split} images; ask for fewer, or n=None for all")
    return ImageDataset(images[:n].to(device), labels[:n].to(device), classes, str(name), levels)


def _idx_pair(name: str, split: str) -> tuple[Tensor, Tensor]:
    prefix = "train" if split == "train" else "t10k"
    images = formats.read_idx(files.fetch(name, f"{prefix}-images-idx3-ubyte.gz"), ndim=3)
    labels = formats.read_idx(files.fetch(name, f"{prefix}-labels-idx1-ubyte.gz"), ndim=1)
    if len(images) != len(labels) or int(labels.max()) > 9:
        raise ValueError(f"{name} {split}: {len(images)} images, {len(labels)} labels up to {int(labels.max())}: no match")
    return images.unsqueeze(1), labels.long()


def _digits(split: str) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    scans = load_digits()  # 1,797 in the order of the original file; values 0..16
    part = slice(None, 1500) if split == "train" else slice(1500, None)
    images = torch.from_numpy(scans.images[part]).to(torch.uint8).unsqueeze(1)
    return images, torch.from_numpy(scans.target[part]).long()
