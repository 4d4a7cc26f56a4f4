"""Improved precision and recall: fidelity and variety of samples, told apart."""

from typing import NamedTuple

import torch
from torch import Tensor

from genimg_lib.metrics._samples import checked

CHUNK = 1000  # rows of the distance matrix held at a time


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]."""

    precision: float  # of fake samples that lie in the real ones' estimated support: quality
    recall: float  # of real samples that lie in the fake ones' estimated support: variety


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """A sample is in a set's support if it is within some member's distance to that member's k-th nearest neighbour.

    real (N, D), fake (M, D): features; each needs more than k samples, and the numbers depend on N, M and k: state them.
    Raises ValueError for other shapes, NaN, or too few samples. Source: Kynkäänniemi et al. (2019), equations 1 and 2.
    """
    if k < 1:
        raise ValueError(f"k={k}: expected 1 or more neighbours")
    real, fake = checked(real, fake, names=("real", "fake"), at_least=k + 1)
    return PrecisionRecall(precision=_share_inside(real, fake, k), recall=_share_inside(fake, real, k))


def _share_inside(members: Tensor, queries: Tensor, k: int) -> float:
    # a member's nearest neighbour is itself, at distance 0: hence k + 1
    radius = torch.cat([_distances(part, members).kthvalue(k + 1, dim=1).values for part in members.split(CHUNK)])
    inside = [(_distances(part, members) <= radius).any(1) for part in queries.split(CHUNK)]
    return torch.cat(inside).double().mean().item()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # exact: a sample is at distance 0 from itself
