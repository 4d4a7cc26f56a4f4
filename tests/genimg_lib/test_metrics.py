"""Fréchet distance, precision and recall, modes: against other routes, and on cases whose answer is known."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from genimg_lib import datasets
from genimg_lib.metrics import frechet, modes, precision_recall

RNG = np.random.default_rng(0)


def covariance(d, rank=None):
    a = RNG.normal(size=(d, rank or d))
    return a @ a.T


# --- Fréchet distance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, rank", [(1, None), (3, None), (20, None), (20, 5)])
def test_w2_agrees_with_scipy(d, rank):
    a, b = covariance(d, rank), covariance(d)
    mean_a, mean_b = RNG.normal(size=d), RNG.normal(size=d)
    root = scipy.linalg.sqrtm(a @ b)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(a + b - 2 * root.real)
    found = frechet.gaussian_w2_squared(*(torch.tensor(x) for x in (mean_a, a, mean_b, b)))
    assert found.dtype == torch.float64 and found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_w2_in_one_dimension_is_squared():
    """N(0, 1) to N(3, 2²): 3² + (2 - 1)² = 10; not its root 3.16, nor 9 + 1 + 4."""
    values = (torch.tensor(v) for v in ([0.0], [[1.0]], [3.0], [[4.0]]))
    assert float(frechet.gaussian_w2_squared(*values)) == pytest.approx(10, rel=1e-12)


def test_w2_is_what_the_optimal_map_costs():
    """x -> b + A^-½ (A^½ B A^½)^½ A^-½ (x - a) moves one Gaussian to the other; its mean squared step is W2²."""
    a, b = covariance(4) + np.eye(4), covariance(4) + np.eye(4)
    root, back = scipy.linalg.sqrtm(a), scipy.linalg.inv(scipy.linalg.sqrtm(a))
    transport = back @ scipy.linalg.sqrtm(root @ b @ root) @ back
    shift = np.array([1.0, -2.0, 0.0, 0.5])
    x = RNG.multivariate_normal(np.zeros(4), a, 200_000)
    cost = ((x @ transport.T + shift - x) ** 2).sum(1)
    zero = torch.zeros(4, dtype=torch.float64)
    found = float(frechet.gaussian_w2_squared(zero, torch.tensor(a), torch.tensor(shift), torch.tensor(b)))
    assert abs(found - cost.mean()) < 4 * cost.std() / math.sqrt(len(cost))


def test_w2_is_zero_for_equals_symmetric_and_scales_as_a_square():
    a, b = (torch.tensor(covariance(6, r)) for r in (3, None))
    m, n = torch.tensor(RNG.normal(size=(2, 6)))
    assert float(frechet.gaussian_w2_squared(m, a, m, a)) == pytest.approx(0, abs=1e-10)
    there = float(frechet.gaussian_w2_squared(m, a, n, b))
    assert float(frechet.gaussian_w2_squared(n, b, m, a)) == pytest.approx(there, rel=1e-9)
    assert float(frechet.gaussian_w2_squared(3 * m, 9 * a, 3 * n, 9 * b)) == pytest.approx(9 * there, rel=1e-9)


class FlatFeatures(torch.nn.Module):
    num_features = 12

    def forward(self, x):
        return x.flatten(1).float() / 255


def test_frechet_distance_of_samples_agrees_with_torchmetrics():
    real = torch.from_numpy(RNG.integers(0, 256, (300, 3, 2, 2), np.uint8))
    fake = torch.from_numpy(RNG.integers(0, 200, (200, 3, 2, 2), np.uint8))
    metric = FrechetInceptionDistance(feature=FlatFeatures(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    network = FlatFeatures()
    found = frechet.frechet_distance(network(real), network(fake))
    assert float(found) == pytest.approx(float(metric.compute()), rel=1e-4)
    assert float(frechet.frechet_distance(network(real), network(real))) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "real, fake, message",
    [
        (torch.zeros(10, 12), torch.zeros(100, 12), "real has 10 samples: expected at least 13"),
        (torch.zeros(100, 12), torch.zeros(12, 12), "fake has 12 samples"),
        (torch.zeros(100, 3), torch.zeros(100, 4), "fake has 4 features"),
        (torch.zeros(100, 1, 2, 2), torch.zeros(100, 4), r"real has shape \(100, 1, 2, 2\)"),
        (torch.zeros(100), torch.zeros(100), r"expected \(N samples, D features\)"),
        (torch.zeros(100, 2), torch.full((100, 2), math.nan), "fake holds NaN"),
    ],
)
def test_samples_that_cannot_be_measured_are_named(real, fake, message):
    with pytest.raises(ValueError, match=message):
        frechet.frechet_distance(real, fake)


def test_moments_that_are_none_are_named():
    eye, zero = torch.eye(2), torch.zeros(2)
    for cov, message in (
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (-eye, "eigenvalue"),
        (torch.eye(3), "shape"),
        (eye * math.nan, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet.gaussian_w2_squared(zero, eye, zero, cov)


# --- precision and recall ---------------------------------------------------------------------------------------------


def brute_force(members, queries, k):
    inside = 0
    for q in queries:
        for i, m in enumerate(members):
            others = sorted(float(np.linalg.norm(m - o)) for j, o in enumerate(members) if j != i)
            if np.linalg.norm(q - m) <= others[k - 1]:
                inside += 1
                break
    return inside / len(queries)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_agrees_with_loops(k, monkeypatch):
    monkeypatch.setattr(precision_recall, "CHUNK", 13)
    real, fake = RNG.normal(size=(40, 3)), 1.5 * RNG.normal(size=(50, 3)) + 0.5
    found = precision_recall.precision_recall(torch.tensor(real), torch.tensor(fake), k)
    assert found.precision == pytest.approx(brute_force(real, fake, k))
    assert found.recall == pytest.approx(brute_force(fake, real, k))
    assert 0.1 < found.recall < found.precision + 0.5 < 1.5  # neither trivially 0 nor 1


def test_precision_recall_tells_quality_from_variety():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(1000, 2, generator=generator) + 20 * torch.arange(1000)[:, None] % 40  # two modes
    one_mode = torch.randn(1000, 2, generator=generator)
    found = precision_recall.precision_recall(real, one_mode)
    assert found.precision > 0.95 and found.recall == pytest.approx(0.5, abs=0.03)
    swapped = precision_recall.precision_recall(one_mode, real)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)
    assert precision_recall.precision_recall(real, real) == (1, 1)
    assert precision_recall.precision_recall(real, one_mode + 500) == (0, 0)


def test_precision_recall_refuses():
    with pytest.raises(ValueError, match="fake has 3 samples: expected at least 4"):
        precision_recall.precision_recall(torch.zeros(9, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="k=0"):
        precision_recall.precision_recall(torch.zeros(9, 2), torch.zeros(9, 2), k=0)
    with pytest.raises(ValueError, match="real holds NaN"):
        precision_recall.precision_recall(torch.full((9, 2), math.nan), torch.zeros(9, 2))


# --- modes ------------------------------------------------------------------------------------------------------------


def test_the_true_ring_has_all_modes_and_the_known_share():
    ring = datasets.points("ring", 50_000, seed=3)
    found = modes.gaussian_modes(ring.points, ring.centers, ring.std)
    assert found.captured == 8
    error = math.sqrt(0.9889 * 0.0111 / 50_000)
    assert abs(found.high_quality - (1 - math.exp(-4.5))) < 4 * error  # 98.89 %, in two dimensions; not 99.73 %
    assert found.counts.sum() == round(found.high_quality * 50_000)


def test_modes_are_counted_one_by_one():
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = torch.tensor([[0.0, 0.29], [0.2, 0.2], [10.0, 0.31], [10.0, 5.0]])  # 3 std = 0.3
    found = modes.gaussian_modes(points, centers, std=0.1)
    assert found.captured == 1 and found.counts.tolist() == [2, 0, 0] and found.high_quality == 0.5
    with pytest.raises(ValueError, match="std=0"):
        modes.gaussian_modes(points, centers, std=0.0)
    with pytest.raises(ValueError, match="points has 3 features"):
        modes.gaussian_modes(torch.zeros(4, 3), centers, std=0.1)


def test_class_counts_undo_known_confusions():
    """Half of class 0 is read as class 1. Images of class 0 alone look like both; corrected, one class is there."""
    confusion = torch.tensor([[50, 50, 0], [0, 100, 0], [0, 0, 100]])
    logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0]]).repeat(500, 1)
    found = modes.class_modes(logits, confusion)
    assert found.captured == 1 and found.counts.tolist() == pytest.approx([1000, 0, 0], abs=1e-6)
    assert found.high_quality == 1
    plain = modes.class_modes(logits, torch.eye(3))
    assert plain.captured == 2 and plain.counts.tolist() == pytest.approx([500, 500, 0])
    mixed = torch.tensor([[9.0, 0, 0]] * 10 + [[0, 9.0, 0]] * 40 + [[0, 0, 0.1]] * 50)  # 20 of 0, 30 of 1, 50 of 2
    found = modes.class_modes(mixed, confusion)
    assert found.captured == 3 and found.counts.tolist() == pytest.approx([20, 30, 50]) and found.high_quality == 0.5


def test_class_modes_refuses():
    with pytest.raises(ValueError, match="some in every row"):
        modes.class_modes(torch.zeros(5, 3), torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match=r"expected counts \(3, 3\)"):
        modes.class_modes(torch.zeros(5, 3), torch.eye(2))
    with pytest.raises(ValueError, match="logits holds NaN"):
        modes.class_modes(torch.full((5, 3), math.nan), torch.eye(3))
