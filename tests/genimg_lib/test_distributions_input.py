"""genimg_lib.distributions: shapes, types, gradients, extreme values, devices, generators, and errors."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genimg_lib import distributions

f64 = torch.float64
close = torch.testing.assert_close


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_densities_broadcast_and_sum_the_last_dimension_only(k, rows, dim, dtype):
    x = torch.randn(k, 1, dim, generator=rng(k)).to(dtype)
    mu, logvar = torch.randn(rows, dim, generator=rng(rows)).to(dtype), torch.full((1,), 0.3, dtype=dtype)
    joint = distributions.log_normal(x, mu, logvar)
    assert joint.shape == (k, rows) and joint.dtype == dtype
    for i, j in itertools.product(range(k), range(rows)):
        close(joint[i, j], distributions.log_normal(x[i, 0], mu[j], logvar.expand(dim)))
    assert distributions.log_bernoulli((x > 0).to(dtype), mu).shape == (k, rows)
    assert distributions.log_standard_normal(x).shape == (k, 1)
    kl = distributions.kl_diagonal_gaussian(mu, 2 * mu)
    assert kl.shape == (rows,) and kl.dtype == dtype
    z = distributions.reparameterize(mu, 2 * mu)
    assert z.shape == mu.shape and z.dtype == dtype


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=f64)  # (64, 6)
    logits = torch.randn(6, generator=rng(9), dtype=f64)
    p = distributions.log_bernoulli(images, logits).exp()
    close(p.sum(), torch.tensor(1.0, dtype=f64))
    grey = torch.rand(6, generator=rng(10), dtype=f64)  # a grey x gives the expectation over binary images drawn from it
    weight = (images * grey + (1 - images) * (1 - grey)).prod(-1)
    close(distributions.log_bernoulli(grey, logits), (weight * p.log()).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_stay_finite_and_right(dtype):
    logits = torch.tensor([[-100.0], [100.0], [-100.0], [100.0]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=dtype)
    log_p = distributions.log_bernoulli(x, logits)
    close(log_p, torch.tensor([0.0, 0.0, -100.0, -100.0], dtype=dtype))
    (slope,) = torch.autograd.grad(log_p.sum(), logits)
    close(slope, torch.tensor([[0.0], [0.0], [1.0], [-1.0]], dtype=dtype))  # x - σ(l)

    mu, logvar = torch.zeros(2, 1, dtype=dtype), torch.tensor([[-20.0], [20.0]], dtype=dtype, requires_grad=True)
    kl = distributions.kl_diagonal_gaussian(mu, logvar)
    close(kl, torch.tensor([9.5, (math.exp(20) - 21) / 2], dtype=dtype))
    (slope,) = torch.autograd.grad(kl.sum(), logvar)
    close(slope, torch.tensor([[-0.5], [math.expm1(20) / 2]], dtype=dtype))
    density = distributions.log_normal(mu, mu, logvar)
    close(density, torch.tensor([10.0, -10.0], dtype=dtype) - math.log(2 * math.pi) / 2)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.floats(-20, 20, width=32))
def test_kl_is_never_negative_and_exact_in_float32(mu, logvar):
    kl = distributions.kl_diagonal_gaussian(torch.tensor([mu]), torch.tensor([logvar])).item()
    assert kl >= 0
    second = abs(logvar) < 1e-3  # near N(0, 1) the KL is ½μ² + ¼ logvar², which exp(logvar) - 1 - logvar would lose in float32
    expected = 0.5 * mu**2 + (logvar**2 / 4 if second else (math.expm1(logvar) - logvar) / 2)
    assert kl == pytest.approx(expected, rel=1e-3, abs=1e-6 * abs(logvar) + 1e-37)  # below, mu² leaves float32


def test_kl_gradients_are_those_of_the_formula():
    mu, logvar = (torch.randn(5, 3, generator=rng(i), dtype=f64).requires_grad_() for i in (0, 1))
    d_mu, d_logvar = torch.autograd.grad(distributions.kl_diagonal_gaussian(mu, logvar).sum(), (mu, logvar))
    close(d_mu, mu.detach())
    close(d_logvar, torch.expm1(logvar.detach()) / 2)


def test_samples_follow_the_generator_and_nothing_else():
    mu, logvar = torch.randn(2, 5, 3, generator=rng(0), dtype=f64)
    before = torch.get_rng_state()
    first = distributions.reparameterize(mu, logvar, rng(1))
    close(first, distributions.reparameterize(mu, logvar, rng(1)), rtol=0, atol=0)
    assert not torch.equal(first, distributions.reparameterize(mu, logvar, rng(2)))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    assert not torch.equal(distributions.reparameterize(mu, logvar), distributions.reparameterize(mu, logvar))


@pytest.mark.parametrize("function", ["kl_diagonal_gaussian", "reparameterize"])
def test_two_shapes_are_refused(function):
    message = "expected one shape, got mu (3, 2), logvar (3, 1)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(distributions, function)(torch.zeros(3, 2), torch.zeros(3, 1))


def test_results_stay_on_the_device():
    meta = torch.zeros(5, 2, device="meta")  # stands in for a GPU: it mixes with no other device
    assert distributions.reparameterize(meta, meta).device.type == "meta"
