"""The adversaries' losses against SciPy, quadrature and numbers worked by hand; wrong versions are caught."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, special, stats
from torch import Tensor

from genimg_lib import losses

f64 = torch.float64
close = torch.testing.assert_close


def logits(n: int = 6, seed: int = 0) -> Tensor:
    return 3 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=f64)


REAL, FAKE = logits(6, 0), logits(4, 1)  # unequal batches


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=f64)


def slopes(loss: Tensor, *at: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, at)


# Oracles -------------------------------------------------------------------------------------------------------------------


def logistic_is_scipys() -> None:
    expected = -special.log_expit(REAL.numpy()).mean() - special.log_expit(-FAKE.numpy()).mean()
    close(losses.logistic_d_loss(real_logits=REAL, fake_logits=FAKE), number(expected))


def logistic_by_hand() -> None:
    real, fake = number(3.0).log()[None], torch.tensor([1 / 3, 1.0], dtype=f64).log()  # D = ¾; ¼ and ½
    expected = math.log(4 / 3) + (math.log(4 / 3) + math.log(2)) / 2
    close(losses.logistic_d_loss(real_logits=real, fake_logits=fake), number(expected))


def logistic_finds_the_jensen_shannon_divergence() -> None:
    """At l = log p - log p_g the loss is log 4 - 2 JS; samples are evenly spaced quantiles."""
    p, g = stats.norm(0, 1), stats.norm(1, 1)
    ranks = (np.arange(20_000) + 0.5) / 20_000
    real, fake = (torch.from_numpy(0.5 - d.ppf(ranks)) for d in (p, g))  # log p - log p_g = 1/2 - x

    def integrand(x: float) -> float:
        m = (p.pdf(x) + g.pdf(x)) / 2
        return p.pdf(x) * np.log(p.pdf(x) / m) + g.pdf(x) * np.log(g.pdf(x) / m)

    two_js = integrate.quad(integrand, -9, 10)[0]
    close(losses.logistic_d_loss(real_logits=real, fake_logits=fake), number(math.log(4) - two_js), rtol=0, atol=1e-4)


def saturating_is_scipys() -> None:
    close(losses.saturating_g_loss(FAKE), number(special.log_expit(-FAKE.numpy()).mean()))


def saturating_slope_is_minus_d() -> None:
    for dtype, rtol in ((f64, 1e-12), (torch.float32, 1e-6)):
        l = torch.tensor([-30.0, -2.0, 0.0, 40.0], dtype=dtype, requires_grad=True)
        (slope,) = slopes(losses.saturating_g_loss(l), l)
        close(slope, -torch.from_numpy(special.expit(l.detach().numpy())) / 4, rtol=rtol, atol=0)


def nonsaturating_is_scipys() -> None:
    close(losses.nonsaturating_g_loss(FAKE), number(-special.log_expit(FAKE.numpy()).mean()))


def nonsaturating_keeps_its_slope() -> None:
    for dtype, rtol in ((f64, 1e-12), (torch.float32, 1e-6)):
        l = torch.tensor([-120.0, -30.0, 0.0, 3.0], dtype=dtype, requires_grad=True)
        loss = losses.nonsaturating_g_loss(l)
        (slope,) = slopes(loss, l)
        expected = torch.tensor([-1.0, -1.0, -0.5, special.expit(3.0) - 1], dtype=dtype) / 4
        close(slope, expected, rtol=rtol, atol=0)
        close(loss.double(), number((150 + math.log(2) + math.log1p(math.exp(-3))) / 4), rtol=rtol, atol=0)


def hinge_by_hand() -> None:
    real = torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0], dtype=f64, requires_grad=True)  # 3, 1, ½, 0, 0
    fake = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=f64, requires_grad=True)  # 0, ½, 1, 3
    loss = losses.hinge_d_loss(real_logits=real, fake_logits=fake)
    close(loss, number(4.5 / 5 + 4.5 / 4))
    at_real, at_fake = slopes(loss, real, fake)
    close(at_real[[0, 1, 2, 4]], torch.tensor([-0.2, -0.2, -0.2, 0.0], dtype=f64))
    close(at_fake, torch.tensor([0.0, 0.25, 0.25, 0.25], dtype=f64))


def hinge_finds_the_total_variation() -> None:
    """At l = sign(p - p_g) the loss is 2 (1 - TV); here TV = P(|z| < ½), the distributions a unit apart."""
    x = (np.arange(20_000) + 0.5) / 20_000
    real, fake = (torch.from_numpy(np.sign(0.5 - stats.norm(mean, 1).ppf(x))) for mean in (0, 1))
    tv = 2 * stats.norm.cdf(0.5) - 1
    close(losses.hinge_d_loss(real_logits=real, fake_logits=fake), number(2 * (1 - tv)), rtol=0, atol=2e-4)


def minus_the_mean(name: str):
    def oracle() -> None:
        fake = FAKE.clone().requires_grad_()
        loss = getattr(losses, name)(fake)
        close(loss.detach(), number(-float(np.mean(FAKE.numpy()))))
        close(slopes(loss, fake)[0], torch.full((4,), -0.25, dtype=f64))  # no hinge, however sure D is

    oracle.__name__ = f"{name}_is_minus_the_mean"
    return oracle


def wasserstein_is_a_difference_of_means() -> None:
    expected = float(np.mean(FAKE.numpy()) - np.mean(REAL.numpy()))
    close(losses.wasserstein_d_loss(real_logits=REAL, fake_logits=FAKE), number(expected))


def wasserstein_of_a_unit_slope_is_minus_the_distance() -> None:
    x = logits(50, 2)
    far = stats.wasserstein_distance(x.numpy(), (x - 1.7).numpy())  # the critic f(x) = x is the best here
    close(losses.wasserstein_d_loss(real_logits=x, fake_logits=x - 1.7), number(-far))


PAIR = logits(4, 3)  # as many as FAKE


def relativistic_d_is_scipys() -> None:
    expected = -np.mean([special.log_expit(r - f) for r, f in zip(PAIR.tolist(), FAKE.tolist(), strict=True)])
    close(losses.relativistic_d_loss(real_logits=PAIR, fake_logits=FAKE), number(expected))


def relativistic_g_is_scipys() -> None:
    expected = -np.mean([special.log_expit(f - r) for r, f in zip(PAIR.tolist(), FAKE.tolist(), strict=True)])
    close(losses.relativistic_g_loss(real_logits=PAIR, fake_logits=FAKE), number(expected))


def relativistic_losses_see_differences_only() -> None:
    for name, sign in {"relativistic_d_loss": 1.0, "relativistic_g_loss": -1.0}.items():
        loss = getattr(losses, name)
        close(loss(real_logits=PAIR, fake_logits=FAKE), loss(real_logits=PAIR + 50, fake_logits=FAKE + 50))
        ahead = loss(real_logits=FAKE + sign * math.log(3), fake_logits=FAKE)  # ahead by log 3: σ = ¾
        close(ahead, number(math.log(4 / 3)))


ORACLES = {
    "logistic_d_loss": [logistic_is_scipys, logistic_by_hand, logistic_finds_the_jensen_shannon_divergence],
    "saturating_g_loss": [saturating_is_scipys, saturating_slope_is_minus_d],
    "nonsaturating_g_loss": [nonsaturating_is_scipys, nonsaturating_keeps_its_slope],
    "hinge_d_loss": [hinge_by_hand, hinge_finds_the_total_variation],
    "hinge_g_loss": [minus_the_mean("hinge_g_loss")],
    "wasserstein_d_loss": [wasserstein_is_a_difference_of_means, wasserstein_of_a_unit_slope_is_minus_the_distance],
    "wasserstein_g_loss": [minus_the_mean("wasserstein_g_loss")],
    "relativistic_d_loss": [relativistic_d_is_scipys, relativistic_losses_see_differences_only],
    "relativistic_g_loss": [relativistic_g_is_scipys, relativistic_losses_see_differences_only],
}


@pytest.mark.parametrize("oracle", list(itertools.chain(*ORACLES.values())), ids=lambda oracle: oracle.__name__)
def test_oracle(oracle) -> None:
    oracle()


# Wrong versions ------------------------------------------------------------------------------------------------------------

sp = F.softplus
WRONG = {
    "logistic_d_loss": {
        "labels swapped": lambda *, real_logits, fake_logits: sp(real_logits).mean() + sp(-fake_logits).mean(),
        "sign": lambda *, real_logits, fake_logits: -sp(-real_logits).mean() - sp(fake_logits).mean(),
        "mean over both": lambda *, real_logits, fake_logits: (sp(-real_logits).mean() + sp(fake_logits).mean()) / 2,
        "one mean over all": lambda *, real_logits, fake_logits: torch.cat([sp(-real_logits), sp(fake_logits)]).mean() * 2,
        "sum over the batch": lambda *, real_logits, fake_logits: sp(-real_logits).sum() + sp(fake_logits).sum(),
        "a sigmoid too many": lambda *, real_logits, fake_logits: (
            sp(-real_logits.sigmoid()).mean() + sp(fake_logits.sigmoid()).mean()
        ),
        "fakes left out": lambda *, real_logits, fake_logits: sp(-real_logits).mean(),
    },
    "saturating_g_loss": {
        "minus log(1 - D)": lambda l: sp(l).mean(),
        "the other loss": lambda l: sp(-l).mean(),
        "log D": lambda l: -sp(-l).mean(),
        "sum": lambda l: -sp(l).sum(),
        "rounded": lambda l: torch.log(1 - l.sigmoid() + 1e-8).mean(),
    },
    "nonsaturating_g_loss": {
        "minus log(1 - D)": lambda l: sp(l).mean(),
        "the other loss": lambda l: -sp(l).mean(),
        "maximised": lambda l: -sp(-l).mean(),
        "sum": lambda l: sp(-l).sum(),
        "propped up": lambda l: -torch.log(l.sigmoid() + 1e-8).mean(),
    },
    "hinge_d_loss": {
        "signs swapped": lambda *, real_logits, fake_logits: F.relu(1 + real_logits).mean() + F.relu(1 - fake_logits).mean(),
        "no hinge": lambda *, real_logits, fake_logits: (1 - real_logits).mean() + (1 + fake_logits).mean(),
        "margin 0": lambda *, real_logits, fake_logits: F.relu(-real_logits).mean() + F.relu(fake_logits).mean(),
        "min for max": lambda *, real_logits, fake_logits: (
            (1 - real_logits).clamp(max=0).mean() + (1 + fake_logits).clamp(max=0).mean()
        ),
        "half": lambda *, real_logits, fake_logits: (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2,
    },
    "hinge_g_loss": {
        "sign": lambda l: l.mean(),
        "hinged": lambda l: F.relu(1 - l).mean(),
        "sum": lambda l: -l.sum(),
        "hinged the other way": lambda l: -F.relu(1 + l).mean(),
    },
    "wasserstein_d_loss": {
        "sign": lambda *, real_logits, fake_logits: real_logits.mean() - fake_logits.mean(),
        "sum": lambda *, real_logits, fake_logits: fake_logits.sum() - real_logits.sum(),
        "absolute": lambda *, real_logits, fake_logits: (fake_logits.mean() - real_logits.mean()).abs(),
        "through a sigmoid": lambda *, real_logits, fake_logits: fake_logits.sigmoid().mean() - real_logits.sigmoid().mean(),
    },
    "wasserstein_g_loss": {"sign": lambda l: l.mean(), "sum": lambda l: -l.sum(), "logistic": lambda l: sp(-l).mean()},
    "relativistic_d_loss": {
        "players swapped": lambda *, real_logits, fake_logits: sp(real_logits - fake_logits).mean(),
        "all pairs": lambda *, real_logits, fake_logits: sp(fake_logits[:, None] - real_logits).mean(),
        "against the average": lambda *, real_logits, fake_logits: sp(fake_logits.mean() - real_logits).mean(),
        "without pairs": lambda *, real_logits, fake_logits: sp(-real_logits).mean() + sp(fake_logits).mean(),
        "sum": lambda *, real_logits, fake_logits: sp(fake_logits - real_logits).sum(),
    },
    "relativistic_g_loss": {
        "players swapped": lambda *, real_logits, fake_logits: sp(fake_logits - real_logits).mean(),
        "all pairs": lambda *, real_logits, fake_logits: sp(real_logits[:, None] - fake_logits).mean(),
        "fakes only": lambda *, real_logits, fake_logits: sp(-fake_logits).mean(),
        "sum": lambda *, real_logits, fake_logits: sp(real_logits - fake_logits).sum(),
    },
}


@pytest.mark.parametrize("name, variant", [(name, variant) for name in WRONG for variant in WRONG[name]])
def test_a_wrong_version_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, variant: str) -> None:
    """By one oracle at least; each says something else, and which of them see it is not the point."""
    monkeypatch.setattr(losses, name, WRONG[name][variant])
    caught = 0
    for oracle in ORACLES[name]:
        try:
            oracle()
        except AssertionError:
            caught += 1
    assert caught, "no oracle noticed"


# Input ---------------------------------------------------------------------------------------------------------------------

OF_BOTH = ["logistic_d_loss", "hinge_d_loss", "wasserstein_d_loss", "relativistic_d_loss", "relativistic_g_loss"]


@pytest.mark.parametrize("name", OF_BOTH)
def test_columns_against_rows_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(4, 1\) and \(4,\): expected"):
        getattr(losses, name)(real_logits=PAIR[:, None], fake_logits=FAKE)


@pytest.mark.parametrize("name", ["relativistic_d_loss", "relativistic_g_loss"])
def test_pairs_need_as_many_of_each(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(6,\) and \(4,\): expected one shape, since they are compared in pairs"):
        getattr(losses, name)(real_logits=REAL, fake_logits=FAKE)
    with pytest.raises(ValueError, match="one shape"):  # would broadcast
        getattr(losses, name)(real_logits=PAIR, fake_logits=FAKE[:1])


@pytest.mark.parametrize("name", OF_BOTH)
def test_order_cannot_be_confused(name: str) -> None:
    with pytest.raises(TypeError):
        getattr(losses, name)(PAIR, FAKE)


@pytest.mark.parametrize("name", ORACLES)
def test_finite_with_slopes_at_extreme_logits(name: str) -> None:
    """float32 and bfloat16, logits up to ±200: value and slopes are finite."""
    for dtype in (torch.float32, torch.bfloat16):
        real, fake = (torch.tensor([-200.0, -30.0, 30.0, 200.0], dtype=dtype, requires_grad=True) for _ in range(2))
        both = {"real_logits": real, "fake_logits": fake.flip(0)}
        loss = getattr(losses, name)(**both) if name in OF_BOTH else getattr(losses, name)(fake)
        assert loss.shape == () and loss.isfinite()
        assert all(slope.isfinite().all() for slope in slopes(loss, *([real, fake] if name in OF_BOTH else [fake])))


@pytest.mark.parametrize("name", ORACLES)
def test_stacked_networks_share_the_mean(name: str) -> None:
    """(S, B) logits: the loss is the mean of the S networks' own losses."""
    real, fake = logits(12, 5).view(3, 4), logits(12, 6).view(3, 4)
    loss = getattr(losses, name)
    if name in OF_BOTH:
        own = [loss(real_logits=r, fake_logits=f) for r, f in zip(real, fake, strict=True)]
        close(loss(real_logits=real, fake_logits=fake), torch.stack(own).mean())
    else:
        close(loss(fake), torch.stack([loss(f) for f in fake]).mean())
