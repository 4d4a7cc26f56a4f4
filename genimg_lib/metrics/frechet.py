"""The Fréchet distance: the squared 2-Wasserstein distance of the Gaussians with the samples' moments."""

import torch
from torch import Tensor

from genimg_lib.metrics._samples import checked


def gaussian_w2_squared(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    r"""W2² of N(a, A) and N(b, B) = |a - b|² + tr A + tr B - 2 tr (A^½ B A^½)^½, a float64 scalar; squared units.

    mean (D,), cov (D, D) symmetric and positive semi-definite (singular is fine). The last trace is computed as the sum
    of the singular values of A^½ B^½. Raises ValueError for other shapes, NaN, or a matrix that is no covariance.
    Source: Dowson & Landau (1982); used on features by Heusel et al. (2017), equation 6.
    """
    d = mean_a.shape[-1] if mean_a.dim() else 0
    for name, x, shape in (("mean", mean_a, (d,)), ("cov", cov_a, (d, d)), ("mean", mean_b, (d,)), ("cov", cov_b, (d, d))):
        if x.shape != shape or not d:
            raise ValueError(f"a {name} has shape {tuple(x.shape)}: expected means (D,) and covariances (D, D) of one D")
        if not torch.isfinite(x).all():
            raise ValueError(f"a {name} holds NaN or infinity: expected finite numbers")
    root_a, root_b = _root(cov_a.double()), _root(cov_b.double())
    cross = torch.linalg.svdvals(root_a @ root_b).sum()
    gap = (mean_a.double() - mean_b.double()).square().sum()
    return (gap + root_a.square().sum() + root_b.square().sum() - 2 * cross).clamp_min(0)  # rounding may fall below 0


def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """gaussian_w2_squared of the two samples' moments (unbiased covariances): a float64 scalar, biased upwards, as 1/N.

    real (N, D), fake (M, D): features, N and M greater than D. With the book's feature network this is the "Fréchet
    feature distance"; give N with it, and compare only at one N.
    Raises ValueError for other shapes, NaN, or too few samples (the covariance would be singular).
    """
    real, fake = checked(real, fake, names=("real", "fake"), at_least=max(2, real.shape[-1] + 1 if real.dim() else 2))
    return gaussian_w2_squared(
        real.mean(0), torch.cov(real.T).view(real.shape[1], -1), fake.mean(0), torch.cov(fake.T).view(fake.shape[1], -1)
    )


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    scale = cov.abs().max()
    if (cov - cov.T).abs().max() > 1e-6 * scale:
        raise ValueError("a covariance is not symmetric: expected cov = cov.T")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    if values[0] < -1e-6 * scale:
        raise ValueError(f"a covariance has the eigenvalue {values[0]:.3g}: expected none below 0")
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1]  # of a singular matrix; its root would be 1e-8
    return vectors * torch.where(values > noise, values, 0).sqrt() @ vectors.T
