"""genimg_lib.losses: shapes, types, gradients, extreme values, and one clear error for each bad input."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from genimg_lib import losses

f64 = torch.float64
close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.sampled_from([torch.float32, torch.float64]))
def test_one_number_per_image(shape, dtype):
    x, other = torch.rand(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    for nll in (losses.bernoulli_nll(logits=other, x=x), losses.gaussian_nll(mean=other, x=x, sigma=0.5)):
        assert nll.shape == (shape[0],) and nll.dtype == dtype
    log_w = other.flatten(1)
    assert losses.iwae_bound(log_w).shape == log_w.shape[1:] and losses.iwae_bound(log_w).dtype == dtype
    loss = losses.negative_elbo(nll=log_w[:, 0], mu=log_w, logvar=log_w)
    assert loss.shape == () and loss.dtype == dtype


def test_an_empty_batch_gives_no_numbers():
    empty = torch.zeros(0, 1, 2, 2)
    assert losses.bernoulli_nll(logits=empty, x=empty).shape == (0,)
    assert losses.gaussian_nll(mean=empty, x=empty, sigma=1.0).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_have_the_right_loss_and_gradient(dtype):
    logits = torch.tensor([[-100.0], [100.0], [-100.0], [100.0], [15.0]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]], dtype=dtype)
    nll = losses.bernoulli_nll(logits=logits, x=x)
    close(nll, torch.tensor([0.0, 0.0, 100.0, 100.0, -special.log_expit(15.0)], dtype=dtype), rtol=1e-6, atol=1e-30)
    (slope,) = torch.autograd.grad(nll.sum(), logits)  # σ(l) - x
    close(
        slope[:, 0],
        torch.tensor([0.0, 0.0, -1.0, 1.0, -special.expit(-15.0)], dtype=dtype),
        rtol=1e-6,
        atol=torch.finfo(dtype).eps,
    )


def test_gaussian_gradients_are_those_of_the_formula():
    mean, x = normal(2, 6).requires_grad_(), normal(2, 6, seed=1)
    log_sigma = torch.tensor(-0.7, dtype=f64, requires_grad=True)
    nll = losses.gaussian_nll(mean=mean, x=x, sigma=log_sigma.exp())
    d_mean, d_log_sigma = torch.autograd.grad(nll.sum(), (mean, log_sigma))
    var = math.exp(-1.4)
    close(d_mean, (mean.detach() - x) / var)
    close(d_log_sigma, (1 - (x - mean.detach()) ** 2 / var).sum())


def test_a_summed_square_is_a_gaussian_of_variance_one_half():
    mean, x = normal(2, 6), normal(2, 6, seed=1)
    nll = losses.gaussian_nll(mean=mean, x=x, sigma=math.sqrt(0.5))
    close(nll - ((x - mean) ** 2).sum(1), torch.full((2,), 3 * math.log(math.pi), dtype=f64))  # ½ log 2πσ² a pixel


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.floats(-1e4, 1e4), st.integers(0, 1000))
def test_more_samples_lie_between_the_elbo_and_the_best_weight(k, shift, seed):
    log_w = normal(k, 3, seed=seed)
    bound = losses.iwae_bound(log_w)
    assert bool((bound >= log_w.mean(0) - 1e-12).all()) and bool((bound <= log_w.max(0).values + 1e-12).all())
    close(losses.iwae_bound(log_w + shift), bound + shift)


def test_a_gpu_is_never_waited_for():
    with FakeTensorMode():  # cuda tensors without a GPU, which cannot be read: .item() raises
        x = torch.zeros(4, 1, 2, 2, device="cuda")
        sigma = torch.ones((), device="cuda")
        for nll in (losses.bernoulli_nll(logits=x, x=x), losses.gaussian_nll(mean=x, x=x, sigma=sigma)):
            assert nll.is_cuda and nll.shape == (4,)
        for sigma in (0.5, torch.ones(4, 1, 1, 1)):  # wherever sigma was made
            assert losses.gaussian_nll(mean=x, x=x, sigma=sigma).is_cuda


# Errors --------------------------------------------------------------------------------------------------------------------

ones = torch.ones(2, 3)
RANGE = ": expected [0, 1]; divide by 255 if it is [0, 255] (datasets.to_unit)"
NOT_POSITIVE = "; learn log σ and exponentiate it"


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: losses.bernoulli_nll(logits=ones, x=ones[:1]),
            ValueError,
            "x has shape (1, 3) and logits (2, 3): expected one shape (B, C, H, W)",
        ),
        (
            lambda: losses.gaussian_nll(mean=ones, x=ones[:, :1], sigma=1.0),
            ValueError,
            "x has shape (2, 1) and mean (2, 3): expected one shape (B, C, H, W)",
        ),
        *(
            (call, TypeError, "x is torch.uint8: expected floating point in [0, 1]; datasets.to_unit converts uint8 images")
            for call in (
                lambda: losses.bernoulli_nll(logits=ones, x=ones.byte()),
                lambda: losses.gaussian_nll(mean=ones, x=ones.byte(), sigma=1.0),
            )
        ),
        *(
            (call, ValueError, "x holds NaN: expected pixel values; look for the step that made it")
            for call in (
                lambda: losses.bernoulli_nll(logits=ones, x=ones * torch.tensor([1.0, math.nan, 1.0])),
                lambda: losses.gaussian_nll(mean=ones, x=ones * torch.tensor([1.0, math.nan, 1.0]), sigma=1.0),
            )
        ),
        (lambda: losses.bernoulli_nll(logits=ones, x=255 * ones), ValueError, f"x lies in [255, 255]{RANGE}"),
        (lambda: losses.bernoulli_nll(logits=ones, x=1.5 * ones), ValueError, f"x lies in [1.5, 1.5]{RANGE}"),
        (lambda: losses.bernoulli_nll(logits=ones, x=ones - 1.5), ValueError, f"x lies in [-0.5, -0.5]{RANGE}"),
        *(
            (
                lambda sigma=sigma: losses.gaussian_nll(mean=ones, x=ones, sigma=sigma),
                ValueError,
                f"sigma must be positive, got {given}{NOT_POSITIVE}",
            )
            for sigma, given in [(0.0, "0"), (-2, "-2"), (math.nan, "nan"), (torch.tensor([1.0, -0.5, 2.0]), "-0.5")]
        ),
        (
            lambda: losses.negative_elbo(nll=ones[0, 0], mu=ones, logvar=ones),
            ValueError,
            "nll has shape (): expected one number per image, (2,), summed over pixels",
        ),
        (
            lambda: losses.negative_elbo(nll=ones[0], mu=ones[0], logvar=ones[0]),
            ValueError,
            "mu has shape (3,): expected (B, latent_dim)",
        ),
        (
            lambda: losses.negative_elbo(nll=ones[:, 0], mu=ones, logvar=ones[:, :1]),
            ValueError,
            "expected one shape, got mu (2, 3), logvar (2, 1)",
        ),
        (lambda: losses.iwae_bound(ones[0]), ValueError, "log_w has shape (3,): expected (k samples, B images), k > 0"),
        (lambda: losses.iwae_bound(ones[:0]), ValueError, "log_w has shape (0, 3): expected (k samples, B images), k > 0"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


def test_the_edges_of_the_range_are_pixels_and_gaussian_data_have_no_range():
    assert losses.bernoulli_nll(logits=ones, x=torch.tensor([[0.0, 1.0, 0.5]] * 2)).isfinite().all()
    assert losses.gaussian_nll(mean=ones, x=255 * ones, sigma=1.0).isfinite().all()
