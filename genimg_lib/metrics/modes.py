"""How many modes of the data a model's samples reach."""

from dataclasses import dataclass

import torch
from scipy.optimize import nnls
from torch import Tensor

from genimg_lib.metrics._samples import checked


@dataclass(frozen=True)
class Modes:
    """What samples reach of K modes."""

    captured: int  # modes reached, 0..K
    counts: Tensor  # (K,) float64: samples of each mode, as each function says
    high_quality: float  # share of samples that are near a mode, or surely of a class


def gaussian_modes(points: Tensor, centers: Tensor, std: float, sigmas: float = 3.0) -> Modes:
    """Modes of a mixture of round Gaussians that samples in the plane reach.

    points (N, 2), centers (K, 2). A point is of high quality if it is within sigmas * std of its nearest centre: of the
    true distribution 1 - exp(-sigmas²/2) are, 98.89 % for 3. A mode is captured if at least one such point is there;
    counts are of such points. Raises ValueError for other shapes, NaN, no point, std not above 0.
    Source: the protocol of Srivastava et al. (2017), "VEEGAN", and Lin et al. (2018), "PacGAN".
    """
    if not std > 0:
        raise ValueError(f"std={std}: expected the modes' standard deviation, above 0")
    centers, points = checked(centers, points, names=("centers", "points"), at_least=1)
    distance, nearest = torch.cdist(points, centers).min(1)
    near = distance <= sigmas * std
    counts = torch.bincount(nearest[near], minlength=len(centers)).double()
    return Modes(int((counts > 0).sum()), counts, near.double().mean().item())


def class_modes(logits: Tensor, confusion: Tensor, sure: float = 0.9) -> Modes:
    """Classes that generated images reach, as a classifier sees them, corrected for what it is known to confuse.

    logits (N, K) of the images; confusion (K, K): counts, row true, column predicted, from a test set. If the images'
    classes have shares p, the predictions have shares q = Cᵀ p, with C the rows as shares; counts are N p, where p >= 0
    is the least-squares solution for the q observed. A class is captured if its share is at least a tenth of 1/K. That
    C holds for generated images as for real ones is an assumption. high_quality: the share of images whose most
    probable class has at least the probability `sure`.
    Raises ValueError for other shapes, NaN, or a class that the test set lacks.
    """
    (logits,) = checked(logits, names=("logits",), at_least=1)
    n, k = logits.shape
    if confusion.shape != (k, k) or bool((confusion < 0).any()) or bool((confusion.sum(1) == 0).any()):
        raise ValueError(f"confusion {tuple(confusion.shape)}: expected counts ({k}, {k}), some in every row")
    rows = confusion.double() / confusion.sum(1, keepdim=True)
    probability, predicted = logits.softmax(1).max(1)
    observed = torch.bincount(predicted, minlength=k).double() / n
    shares = torch.from_numpy(nnls(rows.T.cpu().numpy(), observed.cpu().numpy())[0])
    counts = n * shares / shares.sum()
    return Modes(int((counts >= 0.1 * n / k).sum()), counts, (probability >= sure).double().mean().item())
