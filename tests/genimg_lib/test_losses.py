"""genimg_lib.losses against SciPy, exact linear-Gaussian bounds and numbers worked by hand; wrong versions are caught."""

import itertools
import math

import pytest
import torch
from scipy import special, stats
from torch import Tensor

from genimg_lib import losses
from genimg_lib.distributions import LinearGaussian

f64 = torch.float64
close = torch.testing.assert_close
SHAPE = (3, 2, 4, 5)  # B, C, H, W


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=f64)


# Oracles -------------------------------------------------------------------------------------------------------------------


def bernoulli_is_scipys() -> None:
    logits, x = 3 * normal(*SHAPE), (normal(*SHAPE, seed=1) > 0).double()
    expected = -stats.bernoulli.logpmf(x, special.expit(logits.numpy())).sum((1, 2, 3))
    close(losses.bernoulli_nll(logits=logits, x=x), torch.from_numpy(expected))


def bernoulli_by_hand() -> None:
    odds = torch.tensor([[3.0, 1.0], [1 / 3, 1.0]], dtype=f64)  # probabilities ¾, ½ and ¼, ½
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=f64)
    expected = torch.tensor([math.log(4 / 3) + math.log(2), math.log(4) + math.log(2)], dtype=f64)
    close(losses.bernoulli_nll(logits=odds.log(), x=x), expected)


def gaussian_is_scipys() -> None:
    mean, x = normal(*SHAPE), normal(*SHAPE, seed=1)
    for sigma in (0.1, 1.0, 2.5):
        expected = -stats.norm(mean, sigma).logpdf(x).sum((1, 2, 3))
        close(losses.gaussian_nll(mean=mean, x=x, sigma=sigma), torch.from_numpy(expected), rtol=1e-12, atol=0)


def gaussian_takes_one_sigma_per_pixel() -> None:
    mean, x, sigma = normal(*SHAPE), normal(*SHAPE, seed=1), normal(1, 2, 1, 5, seed=2).exp()
    expected = -stats.norm(mean, sigma.expand(SHAPE)).logpdf(x).sum((1, 2, 3))
    close(losses.gaussian_nll(mean=mean, x=x, sigma=sigma), torch.from_numpy(expected))


def negative_elbo_by_hand() -> None:
    nll = torch.tensor([100.0, 80.0], dtype=f64)
    mu = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=f64)
    logvar = torch.tensor([[0.0, 0.0, 0.0], [0.0, math.log(4), 0.0]], dtype=f64)
    kl = [0.5, (4 + 4 - 1 - math.log(4)) / 2]
    for beta in (0.0, 1.0, 4.0):
        expected = torch.tensor((100 + 80 + beta * sum(kl)) / 2, dtype=f64)
        close(losses.negative_elbo(nll=nll, mu=mu, logvar=logvar, beta=beta), expected)
    close(losses.negative_elbo(nll=nll, mu=mu, logvar=logvar), torch.tensor((180 + sum(kl)) / 2, dtype=f64))


def linear_gaussian() -> tuple[LinearGaussian, Tensor]:
    """A model whose posterior is diagonal (orthogonal columns of W), so that a diagonal q can be exact; and data x (4, 3)."""
    W = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 1.0]], dtype=f64)
    return LinearGaussian(W, normal(3, seed=3), torch.tensor(0.5, dtype=f64)), normal(4, 3, seed=4)


def elbo_of_the_posterior_is_the_evidence() -> None:
    model, x = linear_gaussian()
    mu, covariance = model.posterior(x)
    logvar = covariance.diagonal().log().expand_as(mu)
    # E_q[-log p(x|z)], exact: ½ Σ [log 2πσ² + ((x - Wμ - b)² + W² diag(cov)) / σ²]
    square = (x - mu @ model.W.T - model.b) ** 2 + covariance.diagonal() @ (model.W**2).T
    nll = (torch.log(2 * math.pi * model.sigma2) + square / model.sigma2).sum(1) / 2
    close(losses.negative_elbo(nll=nll, mu=mu, logvar=logvar), -model.log_evidence(x).mean())


def iwae_is_scipys() -> None:
    log_w = 5 * normal(7, 4)
    close(losses.iwae_bound(log_w), torch.from_numpy(special.logsumexp(log_w.numpy(), axis=0, b=1 / 7)))


def iwae_by_hand() -> None:
    log_w = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]], dtype=f64).log()
    close(losses.iwae_bound(log_w), torch.tensor([3.0, 4.0], dtype=f64).log())


def iwae_of_the_posterior_is_the_evidence() -> None:
    model, x = linear_gaussian()
    means, covariance = model.posterior(x)
    q = torch.distributions.MultivariateNormal(means, covariance)
    z = q.mean + normal(6, 4, 2, seed=5)  # log p(x, z) - log p(z|x) = log p(x) at any z
    close(losses.iwae_bound(model.log_joint(x, z) - q.log_prob(z)), model.log_evidence(x))


def iwae_survives_small_weights() -> None:
    for dtype in (torch.float32, torch.float64):
        log_w = torch.tensor([[-1e4, 1e4], [-1e4 + 1, -1e4]], dtype=dtype, requires_grad=True)
        bound = losses.iwae_bound(log_w)
        close(bound, torch.tensor([-1e4 + math.log1p(math.e) - math.log(2), 1e4 - math.log(2)], dtype=dtype))
        (share,) = torch.autograd.grad(bound.sum(), log_w)
        close(share, torch.tensor([[1 / (1 + math.e), 1.0], [math.e / (1 + math.e), 0.0]], dtype=dtype), rtol=1e-3, atol=0)


ORACLES = {
    "bernoulli_nll": [bernoulli_is_scipys, bernoulli_by_hand],
    "gaussian_nll": [gaussian_is_scipys, gaussian_takes_one_sigma_per_pixel],
    "negative_elbo": [negative_elbo_by_hand, elbo_of_the_posterior_is_the_evidence],
    "iwae_bound": [iwae_is_scipys, iwae_by_hand, iwae_of_the_posterior_is_the_evidence, iwae_survives_small_weights],
}


@pytest.mark.parametrize("oracle", list(itertools.chain(*ORACLES.values())), ids=lambda oracle: oracle.__name__)
def test_oracle(oracle):
    oracle()


# Wrong versions ------------------------------------------------------------------------------------------------------------

right = {name: getattr(losses, name) for name in ORACLES}


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return (mu**2 + logvar.exp() - 1 - logvar) / 2


WRONG = {
    "bernoulli_nll": {
        "mean over pixels": lambda logits, x: right["bernoulli_nll"](logits=logits, x=x) / x[0].numel(),
        "sign": lambda logits, x: -right["bernoulli_nll"](logits=logits, x=x),
        "a sigmoid too many": lambda logits, x: right["bernoulli_nll"](logits=logits.sigmoid(), x=x),
        "ink and paper swapped": lambda logits, x: right["bernoulli_nll"](logits=-logits, x=x),
        "mean over the batch": lambda logits, x: right["bernoulli_nll"](logits=logits, x=x).mean(),
    },
    "gaussian_nll": {
        "mean over pixels": lambda mean, x, sigma: right["gaussian_nll"](mean=mean, x=x, sigma=sigma) / x[0].numel(),
        "sign": lambda mean, x, sigma: -right["gaussian_nll"](mean=mean, x=x, sigma=sigma),
        "sigma taken for σ²": lambda mean, x, sigma: right["gaussian_nll"](mean=mean, x=x, sigma=sigma**0.5),
        "without log σ": lambda mean, x, sigma: (math.log(2 * math.pi) / 2 + ((x - mean) / sigma) ** 2 / 2).flatten(1).sum(1),
        "log σ once an image": lambda mean, x, sigma: (
            right["gaussian_nll"](mean=mean / sigma, x=x / sigma, sigma=1.0) + torch.as_tensor(sigma).log().sum()
        ),
        "squared error": lambda mean, x, sigma: ((x - mean) ** 2).flatten(1).sum(1),
    },
    "negative_elbo": {
        "KL subtracted": lambda nll, mu, logvar, beta=1.0: (nll - beta * kl(mu, logvar).sum(1)).mean(),
        "without KL": lambda nll, mu, logvar, beta=1.0: nll.mean(),
        "KL without ½": lambda nll, mu, logvar, beta=1.0: (nll + 2 * beta * kl(mu, logvar).sum(1)).mean(),
        "KL averaged over latents": lambda nll, mu, logvar, beta=1.0: (nll + beta * kl(mu, logvar).mean(1)).mean(),
        "KL summed over the batch": lambda nll, mu, logvar, beta=1.0: nll.mean() + beta * kl(mu, logvar).sum(),
        "E_q[log q] only": lambda nll, mu, logvar, beta=1.0: (nll - beta * (2.8379 + logvar).sum(1) / 2).mean(),
        "logvar taken for log σ": lambda nll, mu, logvar, beta=1.0: (nll + beta * kl(mu, 2 * logvar).sum(1)).mean(),
        "sum over the batch": lambda nll, mu, logvar, beta=1.0: (nll + beta * kl(mu, logvar).sum(1)).sum(),
        "sign": lambda nll, mu, logvar, beta=1.0: -(nll + beta * kl(mu, logvar).sum(1)).mean(),
    },
    "iwae_bound": {
        "without - log k": lambda log_w: torch.logsumexp(log_w, 0),
        "mean over images": lambda log_w: torch.logsumexp(log_w, 1) - math.log(log_w.shape[1]),
        "+ log k": lambda log_w: torch.logsumexp(log_w, 0) + math.log(len(log_w)),
        "mean of log w": lambda log_w: log_w.mean(0),
        "the best weight": lambda log_w: log_w.max(0).values,
        "exp before the sum": lambda log_w: log_w.exp().mean(0).log(),
    },
}
# At the posterior all weights are equal: a mean or a maximum of log w is right there. exp fails only on small or large weights.
BLIND = {
    "mean of log w": {iwae_of_the_posterior_is_the_evidence},
    "the best weight": {iwae_of_the_posterior_is_the_evidence},
    "exp before the sum": {iwae_is_scipys, iwae_by_hand, iwae_of_the_posterior_is_the_evidence},
}


@pytest.mark.parametrize("name, variant", [(name, variant) for name in WRONG for variant in WRONG[name]])
def test_a_wrong_version_is_caught(monkeypatch, name, variant):
    monkeypatch.setattr(losses, name, WRONG[name][variant])
    for oracle in set(ORACLES[name]) - BLIND.get(variant, set()):
        with pytest.raises(AssertionError):
            oracle()


def test_beta_on_the_wrong_term_is_caught(monkeypatch):
    monkeypatch.setattr(losses, "negative_elbo", lambda nll, mu, logvar, beta=1.0: (beta * nll + kl(mu, logvar).sum(1)).mean())
    with pytest.raises(AssertionError):
        negative_elbo_by_hand()
