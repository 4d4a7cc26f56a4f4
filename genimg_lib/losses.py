"""Losses: pure functions, to be minimised unless said otherwise. Sum over pixels, mean over the batch, nats per image."""

from __future__ import annotations

import math
from collections.abc import Callable

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


# Adversaries. Every loss is minimised: V's ascent by D is written as the descent of minus V. Logits are raw scores, no sigmoid
# applied; D(x) = σ(l). The mean runs over all entries: for S stacked networks, (S, B), it is 1/S of the sum of their losses.


def _check_scores(real_logits: Tensor, fake_logits: Tensor, *, paired: bool = False) -> None:
    """One number per image in both; as many real as generated ones if they are compared pair by pair."""
    if real_logits.dim() != fake_logits.dim() or (paired and real_logits.shape != fake_logits.shape):
        shapes = f"{tuple(real_logits.shape)} and {tuple(fake_logits.shape)}"
        expected = "one shape, since they are compared in pairs" if paired else "(B,) for both; flatten (B, 1) first"
        raise ValueError(f"real_logits and fake_logits have shapes {shapes}: expected {expected}")


def logistic_d_loss(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""-V = -log D(x) - log(1 - D(G(z))): mean over the batch, nats; 2 log 2 when D cannot tell, at l = 0.

    real_logits, fake_logits: (B,) each, B may differ. Returns a scalar. Raises ValueError for different numbers of dimensions.
    Goodfellow et al. (2014), minus equation 1.
    """
    _check_scores(real_logits, fake_logits)
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()  # -log σ(l) and -log(1 - σ(l))


def saturating_g_loss(fake_logits: Tensor) -> Tensor:
    r"""log(1 - D(G(z))): mean over the batch, nats, never positive; G's part of V. Slope in l: -σ(l), none for bad fakes.

    fake_logits: (B,). Returns a scalar. Goodfellow et al. (2014), equation 1.
    """
    return -F.softplus(fake_logits).mean()


def nonsaturating_g_loss(fake_logits: Tensor) -> Tensor:
    r"""-log D(G(z)): mean over the batch, nats, never negative. Slope in l: σ(l) - 1, so -1 for bad fakes.

    fake_logits: (B,). Returns a scalar. Goodfellow et al. (2014), section 3.
    """
    return F.softplus(-fake_logits).mean()


def hinge_d_loss(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""max(0, 1 - l(x)) + max(0, 1 + l(G(z))): mean over the batch; 2 when D cannot tell, at l = 0. Its least value over D is
    2 (1 - TV(p, p_g)), TV between 0 and 1.

    real_logits, fake_logits: (B,) each, B may differ. Returns a scalar. Raises ValueError for different numbers of dimensions.
    Lim & Ye (2017).
    """
    _check_scores(real_logits, fake_logits)
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_g_loss(fake_logits: Tensor) -> Tensor:
    r"""-l(G(z)): mean over the batch. No hinge here: with one, a fake beyond the margin would send no gradient.

    fake_logits: (B,). Returns a scalar. Lim & Ye (2017).
    """
    return -fake_logits.mean()


def wasserstein_d_loss(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""f(G(z)) - f(x): mean over the batch; minus a lower bound on W_1(p, p_g) if f is 1-Lipschitz, in the data's unit.

    real_logits, fake_logits: (B,) each, the critic's scores f, B may differ. Returns a scalar. Raises ValueError for different
    numbers of dimensions. Unbounded below unless f is constrained. Arjovsky, Chintala & Bottou (2017), equation 2.
    """
    _check_scores(real_logits, fake_logits)
    return fake_logits.mean() - real_logits.mean()


def wasserstein_g_loss(fake_logits: Tensor) -> Tensor:
    r"""-f(G(z)): mean over the batch, of a critic's scores (B,). Returns a scalar. Arjovsky, Chintala & Bottou (2017)."""
    return -fake_logits.mean()


def relativistic_d_loss(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""-log σ(l(x) - l(G(z))): mean over pairs of one real and one generated image, nats; log 2 when D cannot tell.

    real_logits, fake_logits: (B,) of one shape. Returns a scalar. Raises ValueError for two shapes, which would broadcast.
    Jolicoeur-Martineau (2019), RSGAN.
    """
    _check_scores(real_logits, fake_logits, paired=True)
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_g_loss(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    r"""-log σ(l(G(z)) - l(x)): mean over pairs, nats. Unlike the other losses of G, it looks at real images too.

    real_logits, fake_logits: (B,) of one shape. Returns a scalar. Raises ValueError for two shapes, which would broadcast.
    Jolicoeur-Martineau (2019), RSGAN.
    """
    _check_scores(real_logits, fake_logits, paired=True)
    return F.softplus(real_logits - fake_logits).mean()


# What keeps an adversary in bounds. D maps images x (B, …) to one number each, (B,); S stacked networks on (S, B, …) to (S, B),
# with batch_dims = 2. Weights γ or λ are the caller's. A D that couples images (BatchNorm, minibatch statistics) has no
# gradient of its own for each of them: these penalties are not meant for it.


def interpolate(x: Tensor, fake: Tensor, *, batch_dims: int = 1, generator: torch.Generator | None = None) -> Tensor:
    r"""α x + (1 - α) x_g with one α ~ U[0, 1] per pair of images, the same for all of its pixels.

    x, fake: (B, …) of one shape; returns the same, without a graph. Raises ValueError for two shapes, which would broadcast.
    Gulrajani et al. (2017), algorithm 1.
    """
    if x.shape != fake.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and fake {tuple(fake.shape)}: expected one shape, paired one to one")
    ones = (1,) * (x.dim() - batch_dims)
    alpha = torch.rand(*x.shape[:batch_dims], *ones, generator=generator, device=x.device, dtype=x.dtype)
    return torch.lerp(fake.detach(), x.detach(), alpha)


def input_gradient(D: Callable[[Tensor], Tensor], x: Tensor, *, batch_dims: int = 1) -> Tensor:
    r"""∇_x D(x) for each image, pixels in one row, with a graph to D's parameters: penalties differentiate it again.

    x: (B, …), taken without its own graph. Returns (B, pixels). Raises ValueError if D does not return one number per image:
    an answer (B, 1) or a map of answers would be summed in silence.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = D(x)
        if logits.shape != x.shape[:batch_dims]:
            expected = tuple(x.shape[:batch_dims])
            raise ValueError(f"D returned {tuple(logits.shape)}: expected one number per image, {expected}; flatten (B, 1)")
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)  # image b's row depends on logit b alone
    return gradient.flatten(batch_dims)


def gradient_penalty(D: Callable[[Tensor], Tensor], x: Tensor, *, batch_dims: int = 1) -> Tensor:
    r"""(‖∇_x D(x)‖₂ - 1)²: mean over the batch, the norm over all of an image's pixels. WGAN-GP adds λ times it.

    x: (B, …), in WGAN-GP `interpolate(x, fake)`. Returns a scalar, with finite derivatives where the gradient vanishes, too (a
    written-out √Σ has none there). Gulrajani et al. (2017), equation 3.
    """
    norm = torch.linalg.vector_norm(input_gradient(D, x, batch_dims=batch_dims), dim=-1)  # derivative 0 at gradient 0
    return (norm - 1).square().mean()


def zero_centred_penalty(D: Callable[[Tensor], Tensor], x: Tensor, *, batch_dims: int = 1) -> Tensor:
    r"""‖∇_x D(x)‖₂²: mean over the batch. R1 is γ/2 times it at real images, R2 γ/2 times it at generated ones.

    x: (B, …). Returns a scalar. Mescheder, Geiger & Nowozin (2018), equation 9 (R1) and 10 (R2), without the γ/2.
    """
    return input_gradient(D, x, batch_dims=batch_dims).square().sum(-1).mean()


def orthogonal_penalty(weight: Tensor, *, diagonal: bool = True) -> Tensor:
    r"""‖W Wᵀ - I‖_F², W (out, in · k · k) the weight with a row for each filter: 0 if the rows are orthonormal.

    weight: (out, …). diagonal: if False only the off-diagonal part of W Wᵀ counts, so that rows may have any length (BigGAN).
    Returns a scalar: summed over entries. No weight with more rows than columns can reach 0 with the diagonal.
    Brock et al. (2017), "Neural photo editing", in its squared form; Brock, Donahue & Simonyan (2019), equation 3.
    """
    rows = weight.flatten(1)
    gram = rows @ rows.T
    identity = torch.eye(len(rows), dtype=gram.dtype, device=gram.device)
    return (gram - identity if diagonal else gram * (1 - identity)).square().sum()
