"""Log-densities, divergences and sampling. One number per image, in nats, summed over its dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def _need_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("expected one shape, got " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))


def _sum_over_dimensions(per_dimension: Tensor) -> Tensor:
    """(…, D) -> (…): the joint log-density of independent dimensions."""
    return per_dimension.sum(dim=-1)


def log_normal(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    r"""log N(x; μ, diag exp(logvar)) = -½ Σ_i [log 2π + logvar_i + (x_i - μ_i)² / exp(logvar_i)], in nats.

    x, mu, logvar: (…, D), broadcast against each other; logvar is log σ², not log σ. Returns (…).
    """
    return _sum_over_dimensions(-0.5 * (LOG_2PI + logvar + (x - mu) ** 2 * torch.exp(-logvar)))


def log_standard_normal(z: Tensor) -> Tensor:
    r"""log N(z; 0, I) = -½ Σ_i [log 2π + z_i²], in nats. z: (…, D). Returns (…)."""
    return _sum_over_dimensions(-0.5 * (LOG_2PI + z**2))


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    r"""log p(x) = Σ_i [x_i log σ(l_i) + (1 - x_i) log(1 - σ(l_i))] = Σ_i [x_i l_i - softplus(l_i)], in nats.

    x: (…, D) in {0, 1} (a value between 0 and 1 gives the expectation of log p under pixels drawn with that probability, not a
    log-likelihood); logits: (…, D) raw scores, broadcast against x. Returns (…).
    """
    return _sum_over_dimensions(x * logits - F.softplus(logits))


def kl_diagonal_gaussian(mu: Tensor, logvar: Tensor) -> Tensor:
    r"""KL(N(μ, diag exp(logvar)) ‖ N(0, I)) = ½ Σ_i [μ_i² + exp(logvar_i) - 1 - logvar_i], in nats, never negative.

    mu, logvar: (…, D) of one shape; logvar is log σ². Returns (…), one number per image. Raises ValueError for two shapes.
    Kingma & Welling (2014), appendix B, where its negative is given.
    """
    _need_same_shape(mu=mu, logvar=logvar)
    return _sum_over_dimensions(0.5 * (mu**2 + torch.expm1(logvar) - logvar))


def reparameterize(mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""z = μ + exp(½ logvar) ε with ε ~ N(0, I): a sample of q(z|x) through which gradients reach μ and logvar.

    mu, logvar: (…, D) of one shape. Returns z of that shape. Raises ValueError for two shapes.
    Kingma & Welling (2014), section 2.4.
    """
    _need_same_shape(mu=mu, logvar=logvar)
    noise = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device, generator=generator)
    return mu + torch.exp(0.5 * logvar) * noise


@dataclass(frozen=True)
class LinearGaussian:
    r"""p(z) = N(0, I_d), p(x|z) = N(W z + b, σ² I_D): the latent-variable model whose evidence and posterior are exact.

    W: (D, d); b: (D,); sigma2: scalar tensor, the variance σ² > 0.
    Tipping & Bishop (1999), where it is called probabilistic PCA.
    """

    W: Tensor
    b: Tensor
    sigma2: Tensor

    def covariance(self) -> Tensor:
        """C = W Wᵀ + σ² I, (D, D): the covariance of x."""
        return self.W @ self.W.T + self.sigma2 * torch.eye(len(self.b)).to(self.W)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, C), in nats. x: (B, D). Returns (B,)."""
        return torch.distributions.MultivariateNormal(self.b, self.covariance()).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(z|x) = N(M⁻¹Wᵀ(x - b), σ² M⁻¹) with M = WᵀW + σ² I_d.

        x: (B, D). Returns the means (B, d) and the covariance (d, d), the same for every x.
        """
        M = self.W.T @ self.W + self.sigma2 * torch.eye(self.W.shape[1]).to(self.W)
        means = torch.linalg.solve(M, self.W.T @ (x - self.b).T).T
        return means, self.sigma2 * torch.linalg.inv(M)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(x|z) + log p(z), in nats. x: (…, D); z: (…, d). Returns (…)."""
        return log_normal(x, z @ self.W.T + self.b, torch.log(self.sigma2)) + log_standard_normal(z)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n draws from the model: x (n, D) and the z (n, d) that made them."""
        z = torch.randn(n, self.W.shape[1], dtype=self.W.dtype, device=self.W.device, generator=generator)
        noise = torch.randn(n, len(self.b), dtype=self.W.dtype, device=self.W.device, generator=generator)
        return z @ self.W.T + self.b + torch.sqrt(self.sigma2) * noise, z


def fit_linear_gaussian(x: Tensor, latent_dim: int) -> LinearGaussian:
    r"""Maximum likelihood: W = U_d (Λ_d - σ² I)^½, σ² the mean of the discarded eigenvalues, b the mean of x.

    x: (N, D); 0 < latent_dim < min(N, D). The eigenvalues are of the covariance with 1/N.
    Raises ValueError for an impossible latent_dim, or data that fill no more than latent_dim dimensions (σ² would be 0, and
    the likelihood unbounded). Tipping & Bishop (1999), equations 7 and 8, with the free rotation set to the identity.
    """
    n, dim = x.shape
    if not 0 < latent_dim < min(n, dim):
        limit = min(n, dim) - 1
        raise ValueError(f"latent_dim must lie between 1 and {limit} for data of shape {tuple(x.shape)}, got {latent_dim}")
    b = x.mean(dim=0)
    eigenvalues, eigenvectors = torch.linalg.eigh((x - b).T @ (x - b) / n)
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)  # largest first
    sigma2 = eigenvalues[latent_dim:].mean()
    if sigma2 <= torch.finfo(x.dtype).eps * eigenvalues[0]:
        raise ValueError(f"the data lie in {latent_dim} or fewer dimensions, so σ² = 0 and the likelihood is unbounded")
    W = eigenvectors[:, :latent_dim] * torch.sqrt((eigenvalues[:latent_dim] - sigma2).clamp(min=0))  # rounding
    return LinearGaussian(W, b, sigma2)
