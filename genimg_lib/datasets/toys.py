"""Distributions of points in the plane, whose modes are known."""

import math
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor


@dataclass(frozen=True)
class PointDataset:
    """Points with the modes they came from."""

    points: Tensor  # float32 (N, 2)
    labels: Tensor  # int64 (N,): the mode, moon or arm
    centers: Tensor  # float32 (modes, 2); (0, 2) where the distribution is a curve
    std: float  # of the Gaussian noise about a centre or a curve, in each coordinate
    name: str

    def __len__(self) -> int:
        return len(self.points)


def points(name: str, n: int, seed: int = 0) -> PointDataset:
    """Draw n points, each mode equally likely.

    ring: 8 Gaussians on the unit circle, standard deviation 0.01. grid: 25 Gaussians at {-4, -2, 0, 2, 4}^2, 0.05.
    Both as in Lin et al. (2018), "PacGAN", whose variances are 1e-4 and 0.0025.
    two-moons: two half circles of radius 1, about (0, 0) and (1, 0.5), with noise 0.05.
    spiral: two arms of one and a half turns, radius 0.2 to 2, with noise 0.05.
    """
    std = {"ring": 0.01, "grid": 0.05, "two-moons": 0.05, "spiral": 0.05}
    if name not in std:
        near = get_close_matches(name, std, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown points {name!r}: {hint}expected one of {tuple(std)}")
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1 point")
    generator = torch.Generator().manual_seed(seed)
    centers = _centers(name)
    labels = torch.randint(len(centers) or 2, (n,), generator=generator)
    along = torch.rand(n, generator=generator)  # position along a curve, in [0, 1)
    if name == "two-moons":
        angle = math.pi * (along + labels)  # upper half, lower half
        mean = torch.stack([angle.cos() + labels, angle.sin() + 0.5 * labels], 1)
    elif name == "spiral":
        angle, radius = 3 * math.pi * along + math.pi * labels, 0.2 + 1.8 * along
        mean = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    else:
        mean = centers[labels]
    noise = torch.randn(n, 2, generator=generator)
    return PointDataset(mean + std[name] * noise, labels, centers, std[name], name)


def _centers(name: str) -> Tensor:
    if name == "ring":
        angle = 2 * math.pi * torch.arange(8) / 8
        return torch.stack([angle.cos(), angle.sin()], 1)
    if name == "grid":
        side = torch.arange(-4.0, 5.0, 2.0)
        return torch.cartesian_prod(side, side)
    return torch.empty(0, 2)
