"""The maximum mean discrepancy of two samples, unbiased, and the kernel distance of features."""

from collections.abc import Callable

import torch
from torch import Tensor

from genimg_lib.metrics._samples import checked

BLOCK = 1024  # rows of a kernel matrix held at once


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: float = 1.0) -> Tensor:
    r"""k(x, y) = exp(-|x - y|² / (2 h²)), between 0 and 1: x (N, D), y (M, D), h = bandwidth > 0 in the unit of x -> (N, M).

    Raises ValueError for a bandwidth that is not positive and finite.
    """
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"bandwidth is {bandwidth}: expected a positive finite length; the median distance of x is a start")
    return torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    r"""k(x, y) = (x·y / D + 1)³: x (N, D), y (M, D) -> (N, M). It compares moments up to the third and nothing else.

    Source: Bińkowski, Sutherland, Arbel & Gretton (2018), section 4.
    """
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd_squared(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    r"""Unbiased MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j): a float64 scalar.

    x (N, D), y (M, D) with N, M >= 2; kernel takes (n, D) and (m, D) and gives (n, m). The pairs i = j are left out, which
    makes it unbiased; so it may be below 0. Raises ValueError for other shapes, NaN or fewer than 2 samples.
    Source: Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), lemma 6.
    """
    x, y = checked(x, y, names=("x", "y"), at_least=2)
    n, m = len(x), len(y)
    within_x = (_total(x, x, kernel) - _diagonal(x, kernel)) / (n * (n - 1))
    within_y = (_total(y, y, kernel) - _diagonal(y, kernel)) / (m * (m - 1))
    return within_x + within_y - 2 * _total(x, y, kernel) / (n * m)


def kernel_distance(real: Tensor, fake: Tensor) -> Tensor:
    """mmd_squared of features under the cubic kernel: a float64 scalar, unbiased, so below 0 at times for equals.

    real (N, D), fake (M, D). On Inception features it is the kernel Inception distance, KID; with the book's feature network it
    is the "kernel feature distance", never to be set beside a published KID. Errors as mmd_squared.
    Source: Bińkowski, Sutherland, Arbel & Gretton (2018), section 4.
    """
    real, fake = checked(real, fake, names=("real", "fake"), at_least=2)
    return mmd_squared(real, fake, cubic_kernel)


def _total(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The sum of the kernel over all pairs, block by block, so that memory stays small."""
    return torch.stack([kernel(rows, y).sum() for rows in x.split(BLOCK)]).sum()


def _diagonal(x: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return torch.stack([kernel(rows, rows).diagonal().sum() for rows in x.split(BLOCK)]).sum()
