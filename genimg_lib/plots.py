"""The book's one figure style, and the few drawings that several chapters make."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

# Okabe & Ito (2008): told apart by colour-blind readers; black and yellow left out, which fail on a dark or a light ground.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
PLATE = "#fbfaf7"  # an opaque light plate: legible on a light page and on a dark one


def use_style() -> None:
    """Set the book's style: light plate, colour-blind safe colours, sizes legible at 375 px, PNG of few kilobytes."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.2),
            "figure.dpi": 96,
            "savefig.dpi": 96,
            "figure.facecolor": PLATE,
            "savefig.facecolor": PLATE,
            "axes.facecolor": PLATE,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddad2",
            "font.size": 11,
            "axes.titlesize": 11,
            "legend.frameon": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def as_grid(images: Tensor, columns: int, pad: int = 1) -> Tensor:
    """Tile images row by row with a white gap of ``pad`` pixels. (N, C, H, W) in [0, 1] -> (H', W', C), C being 1 or 3.

    Raises ValueError for another number of dimensions or channels, no images, or values outside [0, 1].
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"expected images (N, 1 or 3, H, W) with N > 0, got {tuple(images.shape)}")
    images = images.detach().float().cpu()
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"expected images in [0, 1], got [{low:g}, {high:g}]; rescale them, then draw")
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    tiles = torch.ones(rows * columns, channels, height + pad, width + pad)
    tiles[:n, :, :height, :width] = images
    grid = tiles.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * (height + pad), -1, channels)
    return grid[: grid.shape[0] - pad, : grid.shape[1] - pad]


def image_grid(
    images: Tensor,
    *,
    columns: int = 10,
    row_labels: Sequence[str] = (),
    title: str = "",
    scale: float = 1.5,
    ax: Axes | None = None,
) -> Axes:
    """Draw images (N, C, H, W) in [0, 1] in rows of ``columns``, a pixel at least ``scale`` screen pixels; a label a row."""
    grid = as_grid(images, columns)
    height, width, _ = grid.shape
    if ax is None:
        dpi = plt.rcParams["figure.dpi"]
        margin = 1.1 if row_labels else 0.15  # inches left for the labels
        _, ax = plt.subplots(figsize=(width * scale / dpi + margin, height * scale / dpi + (0.45 if title else 0.15)))
    ax.imshow(grid.squeeze(-1).numpy(), vmin=0, vmax=1)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    row = height / max(len(row_labels), 1)
    ax.set_yticks([row * (i + 0.5) for i in range(len(row_labels))], row_labels)
    ax.tick_params(length=0)
    ax.set_title(title)
    return ax


def seed_band(ax: Axes, steps: Sequence[float] | Tensor, runs: Tensor, label: str) -> None:
    """Draw the mean over seeds and the full range from the lowest to the highest run. runs: (seeds, len(steps))."""
    (line,) = ax.plot(steps, runs.mean(0), label=label)
    ax.fill_between(steps, runs.min(0).values, runs.max(0).values, color=line.get_color(), alpha=0.2, linewidth=0)
