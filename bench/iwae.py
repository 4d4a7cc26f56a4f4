"""The importance weighted auto-encoder of Burda, Grosse & Salakhutdinov (2016), one stochastic layer, made for long CPU runs.

Two things are written for speed and held equal to the plain form by tests/bench/test_iwae.py: the gradient goes back through
one of the k samples (section 3 of the paper), and where no gradient is needed, tanh and the sum of softplus are computed by
cheaper exact identities. Images are flat here: (B, pixels), in {0, 1}.
"""

import math

import torch
from torch import Tensor, nn

from genimg_lib.distributions import log_bernoulli
from genimg_lib.networks import MLPVAE

ROWS = 500  # latent vectors decoded at once where no gradient is kept: what a core's cache holds


class OneLayer(MLPVAE):
    """784-200-200-50 and back, tanh: Table 1's one stochastic layer. pixel_mean (pixels,) in [0, 1] is that of the data."""

    pixel_mean: Tensor

    def __init__(self, pixel_mean: Tensor) -> None:
        super().__init__((1, 1, len(pixel_mean)), hidden=(200, 200), latent_dim=50, activation=nn.Tanh)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.register_buffer("pixel_mean", pixel_mean)
        with torch.no_grad():  # start from the best model that ignores z
            self.get_parameter("decoder.4.bias").copy_(pixel_mean.clamp(1e-3, 1 - 1e-3).logit())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, pixels) -> mu, logvar, each (B, latent_dim). The input is centred, which speeds up the first layer."""
        mu, logvar = self.encoder(x - self.pixel_mean).chunk(2, dim=-1)
        return mu, logvar


def log_weights(model: OneLayer, x: Tensor, mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """log p(x, z) - log q(z|x) at z = mu + exp(logvar / 2) eps: (k, B), nats, for eps (k, B, latent_dim)."""
    z = mu + torch.exp(0.5 * logvar) * eps
    logits = model.decoder(z)  # (k, B, pixels)
    return log_bernoulli(x, logits) + 0.5 * (eps.square() + logvar - z.square()).sum(-1)  # log p(z)/q(z|x)


def softplus_sum(logits: Tensor) -> Tensor:
    """Sum over the last axis (a multiple of 8) of log(1 + exp(l)) = max(l, 0) + log(1 + exp(-|l|)), by one log for 8 entries.

    Each factor lies in (1, 2], so a product of 8 neither overflows nor loses more than float32 rounding. Overwrites `logits`.
    """
    positive = logits.clamp_min(0).sum(-1)
    factors = logits.abs_().neg_().exp_().add_(1).unflatten(-1, (8, -1))
    return factors.prod(-2).log_().sum(-1) + positive


def tanh_(u: Tensor) -> Tensor:
    """tanh(u) = 2 sigmoid(2u) - 1, in place: a third of the time of torch.tanh on a CPU."""
    return u.mul_(2).sigmoid_().mul_(2).sub_(1)


@torch.no_grad()
def fast_log_weights(model: OneLayer, x: Tensor, mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """`log_weights` without a gradient: x . logits is taken in the hidden layer, as h . (W^T x) + b . x."""
    z = torch.exp(0.5 * logvar) * eps
    z += mu
    log_ratio = 0.5 * (eps.square().sum(-1) + logvar.sum(-1) - z.square().sum(-1))
    first, _, second, _, last = model.decoder
    assert isinstance(last, nn.Linear)
    h = tanh_(second(tanh_(first(z))))  # (k, B, hidden)
    return log_ratio + (h * (x @ last.weight)).sum(-1) + x @ last.bias - softplus_sum(last(h))


def iwae_loss(model: OneLayer, x: Tensor, k: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A scalar whose gradient is an unbiased estimate of minus the IWAE bound's, and the bound itself (B,), nats per image.

    The gradient of log (1/k) sum_i w_i is sum_i w~_i grad log w_i with w~ the normalised weights (eq. 14 of the paper), so one
    index drawn with probability w~_i gives the same gradient on average at a third of the cost. With k = 1 this is the VAE.
    """
    mu, logvar = model.encode(x)
    eps = torch.randn(k, *mu.shape, generator=generator)  # (k, B, latent_dim)
    if k > 1:
        parts = eps.split(max(1, ROWS // len(x)))
        log_w = torch.cat([fast_log_weights(model, x, mu.detach(), logvar.detach(), part) for part in parts])  # (k, B)
        chosen = torch.multinomial(log_w.softmax(0).T, 1, generator=generator).squeeze(1)  # (B,)
        bound = log_w.logsumexp(0) - math.log(k)
        eps = eps[chosen, torch.arange(len(x))].unsqueeze(0)
    log_w_chosen = log_weights(model, x, mu, logvar, eps).squeeze(0)
    return -log_w_chosen.mean(), bound if k > 1 else log_w_chosen.detach()


@torch.no_grad()
def negative_log_likelihood(model: OneLayer, x: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """-log (1/samples) sum_i w_i for each image of x (B, pixels): (B,), nats.

    An upper bound of -log p(x) on average, tight as `samples` grows.
    """
    mu, logvar = model.encode(x)
    total = torch.full((len(x),), -math.inf)
    k = max(1, ROWS // len(x))
    for start in range(0, samples, k):
        eps = torch.randn(min(k, samples - start), *mu.shape, generator=generator)
        total = torch.logaddexp(total, fast_log_weights(model, x, mu, logvar, eps).logsumexp(0))
    return math.log(samples) - total
