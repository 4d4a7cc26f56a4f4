"""The unbiased MMD: against double loops, scikit-learn, torchmetrics and closed forms; known-wrong versions fail."""

import math

import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from torchmetrics.image.kid import maximum_mean_discrepancy

from genimg_lib.metrics import kernels


def samples(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def test_kernels_agree_with_scikit_learn():
    x, y = samples(7, 4, 0), samples(5, 4, 1)
    torch.testing.assert_close(kernels.cubic_kernel(x, y).numpy(), polynomial_kernel(x, y, degree=3, gamma=0.25, coef0=1))
    expected = rbf_kernel(x, y, gamma=1 / (2 * 0.7**2))
    torch.testing.assert_close(kernels.gaussian_kernel(x, y, 0.7).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_double_loop_with_unlike_sizes():
    x, y = samples(6, 3, 0), samples(9, 3, 1, shift=0.5)

    def k(a, b):
        return float((a @ b / 3 + 1) ** 3)

    within_x = sum(k(x[i], x[j]) for i in range(6) for j in range(6) if i != j) / 30
    within_y = sum(k(y[i], y[j]) for i in range(9) for j in range(9) if i != j) / 72
    across = sum(k(a, b) for a in x for b in y) / 54
    assert float(kernels.kernel_distance(x, y)) == pytest.approx(within_x + within_y - 2 * across, rel=1e-12)


def test_agrees_with_torchmetrics():
    x, y = samples(40, 8, 2), samples(40, 8, 3, shift=0.3)
    k_xx, k_xy, k_yy = (torch.tensor(polynomial_kernel(a, b, degree=3, coef0=1)) for a, b in ((x, x), (x, y), (y, y)))
    expected = maximum_mean_discrepancy(k_xx, k_xy, k_yy)
    torch.testing.assert_close(kernels.kernel_distance(x, y), expected, rtol=1e-9, atol=0)


def closed_form(a: float, s: float, b: float, t: float, h: float) -> float:
    """MMD² of N(a, s²) and N(b, t²) under the Gaussian kernel of bandwidth h."""

    def mean_k(gap: float, variance: float) -> float:
        return h / math.sqrt(h * h + variance) * math.exp(-(gap**2) / (2 * (h * h + variance)))

    return mean_k(0, 2 * s * s) + mean_k(0, 2 * t * t) - 2 * mean_k(a - b, s * s + t * t)


@pytest.mark.parametrize("keep_diagonal", [False, True])
def test_unbiased_and_the_version_with_the_diagonal_is_not(keep_diagonal: bool):
    found = []
    for seed in range(2000):
        x, y = samples(5, 1, seed), 0.5 * samples(8, 1, 10_000 + seed) + 1.0
        if keep_diagonal:
            k = kernels.gaussian_kernel
            found.append(k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean())
        else:
            found.append(kernels.mmd_squared(x, y, kernels.gaussian_kernel))
    values = torch.stack(found)
    off = abs(values.mean().item() - closed_form(0, 1, 1, 0.5, 1)) / (values.std().item() / math.sqrt(len(values)))
    assert off > 10 if keep_diagonal else off < 4


def test_blocks_do_not_change_the_sum(monkeypatch):
    x, y = samples(50, 3, 4), samples(61, 3, 5)
    whole = kernels.kernel_distance(x, y)
    monkeypatch.setattr(kernels, "BLOCK", 7)
    torch.testing.assert_close(kernels.kernel_distance(x, y), whole, rtol=1e-12, atol=1e-12)


def test_float32_features_are_summed_in_float64():
    x, y = samples(30, 3, 6).float(), samples(30, 3, 7).float()
    found = kernels.kernel_distance(x, y)
    assert found.dtype == torch.float64 and found.shape == ()
    torch.testing.assert_close(found, kernels.kernel_distance(x.double(), y.double()))


def test_sees_a_skew_and_not_the_fourth_moment():
    """Equal first three moments and another fourth: the cubic kernel's distance is 0 in expectation, the Gaussian's is not."""
    n = 3000
    coin = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(n // 2)[:, None]  # moments 0, 1, 0, 1
    three = (3**0.5 * torch.tensor([-1.0, 0, 0, 0, 0, 1], dtype=torch.float64)).repeat(n // 6)[:, None]  # 0, 1, 0, 3
    skewed = torch.tensor([-0.5, -0.5, -0.5, -0.5, 2.0], dtype=torch.float64).repeat(n // 5)[:, None]  # 0, 1, 1.5
    assert abs(float(kernels.kernel_distance(coin, three))) < 0.02
    assert float(kernels.kernel_distance(coin, skewed)) == pytest.approx(1.5**2, abs=0.02)
    assert float(kernels.mmd_squared(coin, three, kernels.gaussian_kernel)) > 0.05


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2, 2), torch.zeros(3, 2), "real has shape"),
        (torch.zeros(3, 2), torch.zeros(3, 4), "fake has 4 features"),
        (torch.zeros(1, 2), torch.zeros(3, 2), "at least 2"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), "NaN"),
    ],
)
def test_bad_samples(x: torch.Tensor, y: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        kernels.kernel_distance(x, y)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.inf, math.nan])
def test_bad_bandwidth(bandwidth: float):
    with pytest.raises(ValueError, match="bandwidth is"):
        kernels.gaussian_kernel(torch.zeros(2, 1), torch.zeros(2, 1), bandwidth)
