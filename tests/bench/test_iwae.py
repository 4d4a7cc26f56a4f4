"""The fast forms against the plain ones, the one-sample gradient against autograd, the NLL against an exact evidence."""

import math

import pytest
import torch

from bench.iwae import OneLayer, fast_log_weights, iwae_loss, log_weights, negative_log_likelihood, softplus_sum, tanh_
from genimg_lib.distributions import log_normal, log_standard_normal
from genimg_lib.losses import iwae_bound


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = OneLayer(torch.linspace(0.05, 0.6, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((3, 16), 0.4), generator=torch.Generator().manual_seed(1))


def test_softplus_sum_and_tanh_far_from_zero():
    logits = torch.cat([torch.linspace(-120, 120, 160), torch.linspace(-3, 3, 640)]).expand(2, 800)
    exact = torch.nn.functional.softplus(logits.double()).sum(-1)
    torch.testing.assert_close(softplus_sum(logits.clone()).double(), exact, rtol=2e-6, atol=0)
    u = torch.linspace(-30, 30, 601)
    torch.testing.assert_close(tanh_(u.clone()), torch.tanh(u), rtol=1e-5, atol=3e-7)


def test_log_weights_are_joint_over_posterior(model, x):
    mu, logvar = model.encode(x)
    eps = torch.randn(4, 3, 50)
    z = mu + torch.exp(0.5 * logvar) * eps
    likelihood = torch.distributions.Bernoulli(logits=model.decoder(z)).log_prob(x).sum(-1)
    expected = likelihood + log_standard_normal(z) - log_normal(z, mu, logvar)
    torch.testing.assert_close(log_weights(model, x, mu, logvar, eps), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(fast_log_weights(model, x, mu, logvar, eps), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("k", [1, 5])
def test_one_sample_gradient_is_that_of_the_bound(model, x, k, monkeypatch):
    """With the noise held fixed, the mean over the index drawn, taken exactly, is autograd through log-mean-exp."""
    eps = torch.randn(k, 1, 50, generator=torch.Generator().manual_seed(2))
    x = x[:1]
    parameters = list(model.parameters())
    mu, logvar = model.encode(x)
    log_w = log_weights(model, x, mu, logvar, eps)
    bound = iwae_bound(log_w)
    exact = torch.autograd.grad(-bound.mean(), parameters)

    monkeypatch.setattr(torch, "randn", lambda *_, **__: eps)
    expected = [torch.zeros_like(p) for p in parameters]
    for index, weight in enumerate(log_w.detach().softmax(0)[:, 0]):
        monkeypatch.setattr(torch, "multinomial", lambda *_, index=index, **__: torch.tensor([[index]]))
        loss, value = iwae_loss(model, x, k)
        torch.testing.assert_close(value, bound.detach(), rtol=1e-4, atol=1e-3)
        for total, gradient in zip(expected, torch.autograd.grad(loss, parameters), strict=True):
            total += weight * gradient
    for total, gradient in zip(expected, exact, strict=True):
        torch.testing.assert_close(total, gradient, rtol=1e-3, atol=1e-4)


def test_index_is_drawn_in_proportion_to_its_weight(model, x, monkeypatch):
    seen = {}
    monkeypatch.setattr(torch, "multinomial", lambda p, n, **_: seen.setdefault("p", p)[:, :1].long() * 0)
    eps = torch.randn(5, 3, 50)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: eps)
    iwae_loss(model, x, 5)
    weights = log_weights(model, x, *model.encode(x), eps).detach()
    torch.testing.assert_close(seen["p"], weights.softmax(0).T, rtol=1e-3, atol=1e-4)  # (B, k): normalised over k, not over B


def test_nll_of_a_model_that_ignores_z_is_exact(model, x):
    """With the decoder's first layer at zero p(x) is a plain Bernoulli's; a posterior equal to the prior gives it at once."""
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.zero_()
    logits = model.decoder(torch.zeros(50))
    exact = -torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
    nll = negative_log_likelihood(model, x, 700, torch.Generator().manual_seed(0))  # several parts, the last one short
    torch.testing.assert_close(nll, exact, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        model.encoder[-1].bias[:50] = 0.15  # a posterior off the prior: the weights differ, their mean does not
    nll = negative_log_likelihood(model, x, 20_000, torch.Generator().manual_seed(0))
    spread = math.sqrt((math.exp(50 * 0.15**2) - 1) / 20_000)  # relative standard error of the mean weight
    assert spread < 0.02 and ((nll - exact).abs() < 5 * spread).all()


def test_single_sample_bound_is_below(model, x):
    nll = negative_log_likelihood(model, x, 5000, torch.Generator().manual_seed(0))
    bounds = torch.stack([iwae_loss(model, x, 1)[1] for _ in range(300)])
    assert (-bounds.mean(0) > nll).all()
