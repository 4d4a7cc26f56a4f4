"""Gradient penalties and the orthogonal penalty against slopes worked by hand; wrong versions are caught."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from genimg_lib import losses

f64 = torch.float64
close = torch.testing.assert_close


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


X, FAKE = images(5, 2, 3, 3), images(5, 2, 3, 3, seed=1)


class Bowl(nn.Module):
    """D(x) = a ‖x‖² / 2, so that ∇_x D = a x: another one for each image."""

    def __init__(self, a: float = 1.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=f64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().flatten(1).sum(1) / 2


class Plane(nn.Module):
    """D(x) = w · x, so that ∇_x D = w."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return (self.w * x).flatten(1).sum(1)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=f64)


# Oracles -------------------------------------------------------------------------------------------------------------------


def one_alpha_an_image() -> None:
    alpha = (losses.interpolate(X, FAKE) - FAKE) / (X - FAKE)
    close(alpha, alpha[:, :1, :1, :1].expand_as(alpha))
    assert len(alpha[:, 0, 0, 0].unique()) == len(X)


def alpha_is_uniform_and_weighs_the_real_image() -> None:
    real, fake = torch.ones(4000, 1, dtype=f64), torch.zeros(4000, 1, dtype=f64)
    alpha = losses.interpolate(real, fake, generator=torch.Generator().manual_seed(0)).flatten().numpy()
    assert 0 <= alpha.min() < 0.002 and 0.998 < alpha.max() <= 1
    assert stats.kstest(alpha, "uniform").pvalue > 0.001
    again = losses.interpolate(real, fake, generator=torch.Generator().manual_seed(0)).flatten().numpy()
    assert np.array_equal(alpha, again)


def gradient_of_a_bowl_is_x() -> None:
    close(losses.input_gradient(Bowl(), X), X.flatten(1))
    stacked = losses.input_gradient(lambda x: 3 * x.square().sum(-1), images(2, 4, 3), batch_dims=2)
    close(stacked, 6 * images(2, 4, 3))


def gradient_by_finite_differences() -> None:
    w = images(18, 4, seed=2)

    def D(x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ w).sum(1)

    nudges = 1e-6 * torch.eye(18, dtype=f64).view(18, 2, 3, 3)
    expected = torch.stack([(D(X + nudge) - D(X - nudge)) / 2e-6 for nudge in nudges], 1)
    close(losses.input_gradient(D, X), expected, rtol=0, atol=1e-8)


def gradient_can_be_differentiated_again() -> None:
    bowl = Bowl(2.0)
    (slope,) = torch.autograd.grad(losses.input_gradient(bowl, X).sum(), bowl.a)
    close(slope, X.sum())


def unit_slope_costs_nothing() -> None:
    w = images(2, 3, 3)
    for length in (0.5, 1.0, 3.0):
        plane = Plane(length * w / w.norm())
        penalty = losses.gradient_penalty(plane, X)
        close(penalty, number((length - 1) ** 2))
        (slope,) = torch.autograd.grad(penalty, plane.w)
        close(slope, 2 * (length - 1) * w / w.norm())


def penalty_of_a_bowl() -> None:
    norms = np.linalg.norm(X.flatten(1).numpy(), axis=1)  # over all of an image's pixels and channels
    close(losses.gradient_penalty(Bowl(), X), number(((norms - 1) ** 2).mean()))


def flat_critic_has_finite_slopes() -> None:
    plane = Plane(torch.zeros(2, 3, 3, dtype=f64))
    penalty = losses.gradient_penalty(plane, X)
    (slope,) = torch.autograd.grad(penalty, plane.w)
    close(penalty, number(1.0))
    assert slope.isfinite().all()


def squared_slope_of_a_bowl() -> None:
    bowl = Bowl(2.0)
    expected = (X.flatten(1).numpy() ** 2).sum(1).mean()
    penalty = losses.zero_centred_penalty(bowl, X)
    close(penalty, number(4 * expected))
    close(torch.autograd.grad(penalty, bowl.a)[0], number(4 * expected))  # d a² / d a = 2 a


def orthonormal_rows_cost_nothing() -> None:
    q = torch.from_numpy(stats.ortho_group.rvs(12, random_state=0))[:5]
    weight = q.view(5, 3, 2, 2)
    close(losses.orthogonal_penalty(weight), number(0.0), rtol=0, atol=1e-24)
    close(losses.orthogonal_penalty(2 * weight), number(5 * 9.0))  # five rows of squared length 4
    for diagonal in (True, False):
        close(losses.orthogonal_penalty(torch.ones(2, 3, dtype=f64), diagonal=diagonal), number(8.0 * diagonal + 18.0))


def rows_of_any_length_cost_nothing_off_the_diagonal() -> None:
    q = torch.from_numpy(stats.ortho_group.rvs(12, random_state=0))[:5]
    weight = torch.tensor([1.0, 2, 3, 4, 5], dtype=f64)[:, None] * q
    close(losses.orthogonal_penalty(weight, diagonal=False), number(0.0), rtol=0, atol=1e-20)


ORACLES = {
    "interpolate": [one_alpha_an_image, alpha_is_uniform_and_weighs_the_real_image],
    "input_gradient": [gradient_of_a_bowl_is_x, gradient_by_finite_differences, gradient_can_be_differentiated_again],
    "gradient_penalty": [unit_slope_costs_nothing, penalty_of_a_bowl, flat_critic_has_finite_slopes],
    "zero_centred_penalty": [squared_slope_of_a_bowl],
    "orthogonal_penalty": [orthonormal_rows_cost_nothing, rows_of_any_length_cost_nothing_off_the_diagonal],
}


@pytest.mark.parametrize("oracle", list(itertools.chain(*ORACLES.values())), ids=lambda oracle: oracle.__name__)
def test_oracle(oracle) -> None:
    oracle()


# Wrong versions ------------------------------------------------------------------------------------------------------------

right = losses.input_gradient


def per_pixel(D, x, *, batch_dims=1):
    return (right(D, x).abs() - 1).square().mean()


def without_graph(D, x, *, batch_dims=1):
    return right(D, x, batch_dims=batch_dims).detach()


def per_channel(D, x, *, batch_dims=1):
    norm = right(D, x).view(x.shape).flatten(2).norm(dim=2)
    return (norm - 1).square().mean()


WRONG = {
    "interpolate": {
        "normal alpha": lambda x, fake, *, batch_dims=1, generator=None: (
            fake + torch.randn(len(x), *(1,) * (x.dim() - 1), generator=generator, dtype=x.dtype) * (x - fake)
        ),
        "an alpha a pixel": lambda x, fake, *, batch_dims=1, generator=None: torch.lerp(fake, x, torch.rand_like(x)),
        "one alpha for all": lambda x, fake, *, batch_dims=1, generator=None: torch.lerp(fake, x, torch.rand((), dtype=f64)),
        "half way": lambda x, fake, *, batch_dims=1, generator=None: (x + fake) / 2,
    },
    "input_gradient": {
        "mean over the batch": lambda D, x, *, batch_dims=1: right(D, x, batch_dims=batch_dims) / len(x),
        "no graph": without_graph,
        "sign": lambda D, x, *, batch_dims=1: -right(D, x, batch_dims=batch_dims),
        "absolute": lambda D, x, *, batch_dims=1: right(D, x, batch_dims=batch_dims).abs(),
    },
    "gradient_penalty": {
        "a norm a pixel": per_pixel,
        "a norm a channel": per_channel,
        "squared norm": lambda D, x, *, batch_dims=1: (right(D, x).square().sum(1) - 1).square().mean(),
        "one norm for the batch": lambda D, x, *, batch_dims=1: (right(D, x).norm() - 1).square(),
        "one-sided": lambda D, x, *, batch_dims=1: (right(D, x).norm(dim=1) - 1).clamp(min=0).square().mean(),
        "centred at 0": lambda D, x, *, batch_dims=1: right(D, x).square().sum(1).mean(),
        "sum": lambda D, x, *, batch_dims=1: (right(D, x).norm(dim=1) - 1).square().sum(),
        "not squared": lambda D, x, *, batch_dims=1: (right(D, x).norm(dim=1) - 1).abs().mean(),
        "written-out root": lambda D, x, *, batch_dims=1: (right(D, x).square().sum(1).sqrt() - 1).square().mean(),
        "no graph": lambda D, x, *, batch_dims=1: (without_graph(D, x).norm(dim=1) - 1).square().mean() + 0 * D(x).sum(),
    },
    "zero_centred_penalty": {
        "norm": lambda D, x, *, batch_dims=1: right(D, x).norm(dim=1).mean(),
        "mean over pixels": lambda D, x, *, batch_dims=1: right(D, x).square().mean(),
        "sum over the batch": lambda D, x, *, batch_dims=1: right(D, x).square().sum(),
        "with the half": lambda D, x, *, batch_dims=1: right(D, x).square().sum(1).mean() / 2,
        "centred at 1": lambda D, x, *, batch_dims=1: (right(D, x).norm(dim=1) - 1).square().mean(),
    },
    "orthogonal_penalty": {
        "columns": lambda w, *, diagonal=True: (w.flatten(1).T @ w.flatten(1) - torch.eye(w[0].numel())).square().sum(),
        "not squared": lambda w, *, diagonal=True: (w.flatten(1) @ w.flatten(1).T - torch.eye(len(w))).norm(),
        "mean": lambda w, *, diagonal=True: (w.flatten(1) @ w.flatten(1).T - torch.eye(len(w))).square().mean(),
        "diagonal left out": lambda w, *, diagonal=True: (
            (w.flatten(1) @ w.flatten(1).T * (1 - torch.eye(len(w)))).square().sum()
        ),
        "diagonal kept": lambda w, *, diagonal=True: (w.flatten(1) @ w.flatten(1).T - torch.eye(len(w))).square().sum(),
    },
}


@pytest.mark.parametrize("name, variant", [(name, variant) for name in WRONG for variant in WRONG[name]])
def test_a_wrong_version_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, variant: str) -> None:
    monkeypatch.setattr(losses, name, WRONG[name][variant])
    caught = 0
    for oracle in ORACLES[name]:
        try:
            oracle()
        except (AssertionError, RuntimeError):  # a RuntimeError: nothing to differentiate
            caught += 1
    assert caught, "no oracle noticed"


# Input ---------------------------------------------------------------------------------------------------------------------


def test_interpolation_has_no_graph_and_refuses_other_shapes() -> None:
    fake = FAKE.clone().requires_grad_()
    assert not losses.interpolate(X, fake).requires_grad
    with pytest.raises(ValueError, match=r"x has shape \(5, 2, 3, 3\) and fake \(1, 2, 3, 3\): expected one shape"):
        losses.interpolate(X, FAKE[:1])


def test_stacked_networks_have_an_alpha_of_each_image() -> None:
    x, fake = images(3, 4, 2), images(3, 4, 2, seed=1)
    alpha = (losses.interpolate(x, fake, batch_dims=2) - fake) / (x - fake)
    close(alpha[..., 0], alpha[..., 1])
    assert len(alpha[..., 0].unique()) == 12


@pytest.mark.parametrize("penalty", [losses.gradient_penalty, losses.zero_centred_penalty])
def test_stacked_networks_share_the_mean(penalty) -> None:
    """(S, B) logits: the mean of the S networks' own penalties."""
    x, scale = images(3, 4, 2), torch.tensor([1.0, 2.0, 5.0], dtype=f64)
    own = [penalty(lambda x, a=a: a * x.square().sum(-1), rows) for a, rows in zip(scale, x, strict=True)]
    together = penalty(lambda x: scale[:, None] * x.square().sum(-1), x, batch_dims=2)
    close(together, torch.stack(own).mean())


@pytest.mark.parametrize("shape", [(5, 1), (1,), ()])
def test_one_number_an_image_is_demanded(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected one number per image, \(5,\); flatten \(B, 1\)"):
        losses.gradient_penalty(lambda x: x.sum() * torch.ones(shape, dtype=f64), X)


def test_works_where_gradients_are_off_and_leaves_the_images_alone() -> None:
    x = X.clone().requires_grad_()
    with torch.no_grad():
        close(losses.input_gradient(Bowl(), x), X.flatten(1))
    losses.zero_centred_penalty(Bowl(), x).backward()
    assert x.grad is None
