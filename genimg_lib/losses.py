"""Losses: pure functions, to be minimised unless said otherwise. Sum over pixels, mean over the batch, nats per image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributions import LOG_2PI, kl_diagonal_gaussian


def _check_images(x: Tensor, other: Tensor, name: str, *, unit_range: bool) -> None:
    """Shapes, type and, where it costs no synchronisation (CPU), range and NaN."""
    if x.shape != other.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and {name} {tuple(other.shape)}: expected one shape (B, C, H, W)")
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}: expected floating point in [0, 1]; datasets.to_unit converts uint8 images")
    if x.is_cuda or not x.numel():
        return
    low, high = (value.item() for value in torch.aminmax(x.detach()))
    if math.isnan(low) or math.isnan(high):
        raise ValueError("x holds NaN: expected pixel values; look for the step that made it")
    if unit_range and not (low >= 0 and high <= 1):
        raise ValueError(f"x lies in [{low:g}, {high:g}]: expected [0, 1]; divide by 255 if it is [0, 255] (datasets.to_unit)")


def bernoulli_nll(*, logits: Tensor, x: Tensor) -> Tensor:
    r"""-log p(x|z) = -Σ_pixels [x log σ(l) + (1 - x) log(1 - σ(l))], one number per image, in nats.

    logits, x: (B, …) of one shape, raw scores and pixels in [0, 1]. Returns (B,).
    A log-likelihood only for x in {0, 1}: binarise grey images first.
    Raises ValueError for two shapes, NaN or pixels outside [0, 1]; TypeError for integers.
    """
    _check_images(x, logits, "logits", unit_range=True)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_nll(*, mean: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    r"""-log N(x; mean, σ² I) = Σ_pixels [½ log 2π + log σ + (x - mean)² / (2 σ²)], one number per image, in nats.

    mean, x: (B, …) of one shape; sigma: a positive number, or a tensor that broadcasts (a learned σ). Returns (B,), which may
    be negative: this is a density. Raises ValueError for two shapes, NaN or σ not positive; TypeError for integers.
    With σ fixed this is Σ (x - mean)² / (2 σ²) plus a constant, so MSE summed over pixels means σ² = ½.
    """
    _check_images(x, mean, "mean", unit_range=False)
    sigma = torch.as_tensor(sigma, dtype=mean.dtype, device=mean.device)
    if not sigma.is_cuda and not bool((sigma > 0).all()):
        raise ValueError(f"sigma must be positive, got {sigma.min().item():g}; learn log σ and exponentiate it")
    return (0.5 * LOG_2PI + torch.log(sigma) + (x - mean) ** 2 / (2 * sigma**2)).flatten(1).sum(1)


def negative_elbo(*, nll: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    r"""-ELBO = mean over the batch of [-log p(x|z) + β KL(q(z|x) ‖ N(0, I))], in nats per image; bounds -log p(x) if β = 1.

    nll: (B,), summed over pixels (`bernoulli_nll`, `gaussian_nll`) at one z ~ q(z|x) each; mu, logvar: (B, latent_dim) of q.
    Returns a scalar. Raises ValueError if mu has another shape, or nll is not one number per image: a mean over pixels here
    would silently set β to the number of pixels. Kingma & Welling (2014), equation 10 with L = 1.
    """
    if mu.dim() != 2:
        raise ValueError(f"mu has shape {tuple(mu.shape)}: expected (B, latent_dim)")
    if nll.shape != mu.shape[:1]:
        expected = tuple(mu.shape[:1])
        raise ValueError(f"nll has shape {tuple(nll.shape)}: expected one number per image, {expected}, summed over pixels")
    return (nll + beta * kl_diagonal_gaussian(mu, logvar)).mean()


def iwae_bound(log_w: Tensor) -> Tensor:
    r"""log (1/k) Σ_i w_i with log w_i = log p(x, z_i) - log q(z_i|x), z_i ~ q: in expectation at most log p(x), in nats.

    log_w: (k, B). Returns (B,), to be maximised. k = 1 is the ELBO; the expectation rises with k. Raises ValueError for other
    shapes. Burda, Grosse & Salakhutdinov (2016), equation 8.
    """
    if log_w.dim() != 2 or not len(log_w):
        raise ValueError(f"log_w has shape {tuple(log_w.shape)}: expected (k samples, B images), k > 0")
    return torch.logsumexp(log_w, dim=0) - math.log(len(log_w))
