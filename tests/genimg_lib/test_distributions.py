"""genimg_lib.distributions against SciPy, torch.distributions, quadrature, Monte Carlo and numbers worked by hand.

Each oracle is a plain function, so that the last tests can put a wrong formula in its place and see the oracle reject it.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from genimg_lib import distributions

f64 = torch.float64
close = torch.testing.assert_close


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussians(rows: int = 5, dim: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    mu, logvar = torch.randn(2, rows, dim, generator=rng(seed), dtype=f64)
    return mu, logvar


def assert_mean(samples: Tensor, expected: Tensor, k: float = 4.5) -> None:
    """The mean over the first dimension lies within k of its standard errors."""
    error = (samples.mean(0) - expected).abs() / (samples.std(0) / math.sqrt(len(samples)))
    assert bool((error < k).all()), f"off by {error.max():.3g} standard errors"


# Oracles -------------------------------------------------------------------------------------------------------------------


def log_normal_is_scipys() -> None:
    x, (mu, logvar) = torch.randn(5, 3, generator=rng(1), dtype=f64), gaussians()
    expected = stats.norm.logpdf(x, loc=mu, scale=np.exp(logvar.numpy() / 2)).sum(-1)
    close(distributions.log_normal(x, mu, logvar), torch.from_numpy(expected), rtol=1e-12, atol=0)


def log_standard_normal_is_scipys() -> None:
    z = torch.randn(5, 3, generator=rng(2), dtype=f64)
    expected = stats.multivariate_normal(np.zeros(3), np.eye(3)).logpdf(z)
    close(distributions.log_standard_normal(z), torch.from_numpy(expected), rtol=1e-12, atol=0)


def log_bernoulli_is_scipys() -> None:
    logits = torch.tensor([[-2.0, 0.0, 0.5], [3.0, -0.1, 7.0]], dtype=f64)
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=f64)
    expected = stats.bernoulli.logpmf(x, special.expit(logits.numpy())).sum(-1)
    close(distributions.log_bernoulli(x, logits), torch.from_numpy(expected), rtol=1e-9, atol=0)


def kl_is_torchs() -> None:
    mu, logvar = gaussians()
    q = torch.distributions.Normal(mu, torch.exp(logvar).sqrt())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = torch.distributions.kl_divergence(q, prior).sum(-1)
    close(distributions.kl_diagonal_gaussian(mu, logvar), expected, rtol=1e-12, atol=0)


@functools.cache
def kl_of_one_dimension(mu: float, logvar: float) -> float:
    q, p = stats.norm(mu, math.exp(logvar / 2)), stats.norm()
    return integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), mu - 12 * q.std(), mu + 12 * q.std())[0]


def kl_is_the_integral() -> None:
    mu, logvar = gaussians(rows=2, dim=2, seed=3)
    each = [kl_of_one_dimension(*pair) for pair in zip(mu.flatten().tolist(), logvar.flatten().tolist(), strict=True)]
    expected = torch.tensor(each, dtype=f64).reshape(2, 2).sum(-1)
    close(distributions.kl_diagonal_gaussian(mu, logvar), expected, rtol=1e-7, atol=0)


@functools.cache
def log_ratios() -> Tensor:
    """log q(z) - log p(z) at 20,000 samples of q, (20000, 4)."""
    mu, logvar = gaussians(rows=4, dim=2, seed=4)
    q = torch.distributions.MultivariateNormal(mu, torch.diag_embed(torch.exp(logvar)))
    prior = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=f64), torch.eye(2, dtype=f64))
    z = mu + torch.sqrt(torch.exp(logvar)) * torch.randn(20_000, 4, 2, generator=rng(5), dtype=f64)
    return q.log_prob(z) - prior.log_prob(z)


def kl_is_the_mean_log_ratio() -> None:
    assert_mean(log_ratios(), distributions.kl_diagonal_gaussian(*gaussians(rows=4, dim=2, seed=4)))


def kl_by_hand() -> None:
    mu = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0]], dtype=f64)
    logvar = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(4), 0.0]], dtype=f64)
    expected = torch.tensor([0.0, 2.5, (3 - math.log(4)) / 2], dtype=f64)  # ½(1 + 4); ½(4 - 1 - log 4)
    close(distributions.kl_diagonal_gaussian(mu, logvar), expected)


def samples_are_normal() -> None:
    mu, logvar = torch.tensor([2.0, -3.0], dtype=f64), torch.tensor([-3.0, 2.0], dtype=f64)
    z = distributions.reparameterize(mu.expand(10_000, 2), logvar.expand(10_000, 2), rng(6))
    for i in range(2):
        p = stats.kstest(z[:, i], stats.norm(mu[i], math.exp(logvar[i] / 2)).cdf).pvalue
        assert p > 1e-4, f"dimension {i}: a Kolmogorov-Smirnov p-value of {p:.3g}"
    assert_mean(z[::2, 0] * z[1::2, 0], mu[0] ** 2)  # images are independent
    assert_mean(z[:, 0] * z[:, 1], mu.prod())  # and so are dimensions


def gradients_reach_mu_and_logvar() -> None:
    mu, logvar = (t.requires_grad_() for t in gaussians(seed=7))
    z = distributions.reparameterize(mu, logvar, rng(8))
    d_mu, d_logvar = torch.autograd.grad(z.sum(), (mu, logvar))
    close(d_mu, torch.ones_like(mu))
    close(d_logvar, 0.5 * (z - mu).detach())  # dz/dlogvar = ½ exp(½ logvar) ε


ORACLES = {
    "log_normal": [log_normal_is_scipys],
    "log_standard_normal": [log_standard_normal_is_scipys],
    "log_bernoulli": [log_bernoulli_is_scipys],
    "kl_diagonal_gaussian": [kl_is_torchs, kl_is_the_integral, kl_is_the_mean_log_ratio, kl_by_hand],
    "reparameterize": [samples_are_normal, gradients_reach_mu_and_logvar],
}


@pytest.mark.parametrize("oracle", list(itertools.chain(*ORACLES.values())), ids=lambda oracle: oracle.__name__)
def test_oracle(oracle):
    oracle()


# Wrong formulas ------------------------------------------------------------------------------------------------------------

HALF_LOG_2PI = math.log(2 * math.pi) / 2
right = {name: getattr(distributions, name) for name in ORACLES}


def kl_terms(mu: Tensor, logvar: Tensor) -> Tensor:
    return (mu**2 + torch.exp(logvar) - 1 - logvar) / 2


WRONG = {
    "kl_diagonal_gaussian": {
        "without ½": lambda mu, logvar: 2 * kl_terms(mu, logvar).sum(-1),
        "E_q[log q] only": lambda mu, logvar: -(HALF_LOG_2PI + (logvar + 1) / 2).sum(-1),
        "without E_q[log q]": lambda mu, logvar: (HALF_LOG_2PI + (mu**2 + torch.exp(logvar)) / 2).sum(-1),
        "logvar taken for σ": lambda mu, s: (mu**2 + s**2 - 1 - torch.log(s**2)).sum(-1) / 2,
        "logvar taken for log σ": lambda mu, s: kl_terms(mu, 2 * s).sum(-1),
        "σ in place of σ²": lambda mu, logvar: (mu**2 + torch.exp(logvar / 2) - 1 - logvar).sum(-1) / 2,
        "μ not squared": lambda mu, logvar: (mu + torch.exp(logvar) - 1 - logvar).sum(-1) / 2,
        "+ logvar": lambda mu, logvar: (mu**2 + torch.exp(logvar) - 1 + logvar).sum(-1) / 2,
        "sign": lambda mu, logvar: -kl_terms(mu, logvar).sum(-1),
        "KL(p ‖ q)": lambda mu, logvar: (logvar + (1 + mu**2) * torch.exp(-logvar) - 1).sum(-1) / 2,
        "mean over dimensions": lambda mu, logvar: kl_terms(mu, logvar).mean(-1),
    },
    "log_normal": {
        "without log 2π": lambda x, mu, logvar: right["log_normal"](x, mu, logvar) + HALF_LOG_2PI * x.shape[-1],
        "logvar taken for log σ": lambda x, mu, s: right["log_normal"](x, mu, 2 * s),
        "not divided by σ²": lambda x, mu, logvar: -(HALF_LOG_2PI + (logvar + (x - mu) ** 2) / 2).sum(-1),
        "without the normaliser's σ": lambda x, mu, logvar: right["log_normal"](x, mu, logvar) + logvar.sum(-1) / 2,
        "sign": lambda *args: -right["log_normal"](*args),
        "mean over dimensions": lambda x, mu, logvar: right["log_normal"](x, mu, logvar) / x.shape[-1],
    },
    "log_standard_normal": {
        "without log 2π": lambda z: -(z**2).sum(-1) / 2,
        "without ½": lambda z: -(2 * HALF_LOG_2PI + z**2).sum(-1),
        "sign": lambda z: -right["log_standard_normal"](z),
        "mean over dimensions": lambda z: right["log_standard_normal"](z) / z.shape[-1],
    },
    "log_bernoulli": {
        "sign": lambda x, logits: -right["log_bernoulli"](x, logits),
        "mean over pixels": lambda x, logits: right["log_bernoulli"](x, logits) / x.shape[-1],
        "ink and paper swapped": lambda x, logits: right["log_bernoulli"](1 - x, logits),
        "logits taken after a sigmoid": lambda x, logits: right["log_bernoulli"](x, torch.sigmoid(logits)),
        "only the ink": lambda x, logits: (x * torch.nn.functional.logsigmoid(logits)).sum(-1),
    },
    "reparameterize": {
        "μ + σ² ε": lambda mu, logvar, g: right["reparameterize"](mu, 2 * logvar, g),
        "μ · exp(log σ²)": lambda mu, logvar, g: mu * torch.exp(logvar),
        "μ alone": lambda mu, logvar, g: mu + 0 * logvar,
        "μ + ε": lambda mu, logvar, g: right["reparameterize"](mu, 0 * logvar, g),
        "-μ": lambda mu, logvar, g: right["reparameterize"](-mu, logvar, g),
        "uniform noise": lambda mu, logvar, g: mu + torch.exp(logvar / 2) * 12**0.5 * (torch.rand(mu.shape, generator=g) - 0.5),
        "one noise for all images": lambda mu, logvar, g: mu + torch.exp(logvar / 2) * torch.randn(mu[0].shape, generator=g),
        "one noise for all dimensions": lambda mu, logvar, g: mu + torch.exp(logvar / 2) * torch.randn(len(mu), 1, generator=g),
        "no gradient": lambda mu, logvar, g: right["reparameterize"](mu, logvar.detach(), g) + 0 * logvar,
    },
}
CAUGHT_BY_ONE = {"reparameterize"}  # a wrong sample may keep the right gradient, and the other way about


@pytest.mark.parametrize("name, variant", [(name, variant) for name in WRONG for variant in WRONG[name]])
def test_a_wrong_formula_is_caught(monkeypatch, name, variant):
    monkeypatch.setattr(distributions, name, WRONG[name][variant])
    caught = 0
    for oracle in ORACLES[name]:
        try:
            oracle()
        except AssertionError:
            caught += 1
    assert caught >= (1 if name in CAUGHT_BY_ONE else len(ORACLES[name]))
