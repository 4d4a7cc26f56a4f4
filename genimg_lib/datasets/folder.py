"""A folder of the reader's own images; its sub-folders, where there are any, are the classes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def read(root: Path, split: str, size: int = 28, color: bool = False) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """images uint8 (N, 1 or 3, size, size), labels int64 (N,), class names.

    Every tenth image of a class, by name, belongs to split "test", the others to "train". An image is scaled until
    its shorter side is `size`, and its centre is kept. Raises ValueError (nothing found, not an image), ImportError.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("reading a folder of images needs Pillow: pip install pillow") from None
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and _images(p))) or (root.resolve().name,)
    if size < 1:
        raise ValueError(f"size={size}: expected at least 1 pixel")
    pixels, labels = [], []
    for label, name in enumerate(classes):
        paths = _images(root / name) if (root / name).is_dir() else _images(root)
        for i, path in enumerate(paths):
            if (i % 10 == 9) != (split == "test"):
                continue
            try:
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB" if color else "L")
                    pixels.append(np.array(ImageOps.fit(upright, (size, size), Image.Resampling.BOX)))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ValueError(f"{path} is not a readable image ({error}); mend or remove it") from None
            labels.append(label)
    if not pixels:
        raise ValueError(f"{root}: no {split} image found; expected files {SUFFIXES}, at least ten a class for a test split")
    images = torch.from_numpy(np.stack(pixels)).reshape(len(pixels), size, size, -1)
    return images.permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), classes


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
