"""The scan against a plain Python recurrence and autograd; the layers against the formulas, one network at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genimg_lib.networks.recurrent import DiagonalLinear, MinGRU, over_time, scan
from genimg_lib.networks.stacked import StackedLinear

close = torch.testing.assert_close
both = pytest.mark.parametrize("parallel", [True, False])
types = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def recurrence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """h_t = a_t h_{t-1} + b_t in NumPy, (..., T, H)."""
    h, out = np.zeros_like(b[..., 0, :]), []
    for t in range(b.shape[-2]):
        h = a[..., t, :] * h + b[..., t, :]
        out.append(h)
    return np.stack(out, -2)


@both
@types
@pytest.mark.parametrize("T", [1, 2, 3, 7, 8, 9, 33])
def test_scan_is_the_recurrence(parallel, dtype, T):
    a, b = draw(2, 3, T, 4, dtype=dtype), draw(2, 3, T, 4, dtype=dtype, seed=1)
    given = a.clone(), b.clone()
    close(scan(a, b, parallel=parallel), torch.from_numpy(recurrence(a.numpy(), b.numpy())), rtol=1e-10, atol=1e-10)
    close((a, b), given, rtol=0, atol=0)  # the inputs are left alone


@both
@types
@pytest.mark.parametrize("T", [1, 2, 5])
def test_gradients_by_finite_differences(parallel, dtype, T):
    a, b = draw(T, 2, dtype=dtype).requires_grad_(), draw(3, T, 2, dtype=dtype, seed=1).requires_grad_()
    fixed = draw(1, 2, dtype=dtype, seed=2).requires_grad_()
    for factor in (a, fixed):  # one factor a step, and one for all
        assert torch.autograd.gradcheck(lambda a, b: scan(a, b, parallel=parallel), (factor, b))
        assert torch.autograd.gradgradcheck(lambda a, b: scan(a, b, parallel=parallel), (factor, b))


@pytest.mark.parametrize("wrong", ["a_t multiplies its own input", "a one step late", "backwards", "no a"])
def test_known_wrong_recurrences_differ(wrong):
    a, b = draw(6, 2).sigmoid(), draw(6, 2, seed=1)
    right = torch.from_numpy(recurrence(a.numpy(), b.numpy()))
    other = {
        "a_t multiplies its own input": lambda: scan(a, a * b),
        "a one step late": lambda: scan(a.roll(1, 0), b),
        "backwards": lambda: scan(a.flip(0), b.flip(0)).flip(0),
        "no a": lambda: b.cumsum(0),
    }[wrong]()
    close(scan(a, b), right)
    assert not torch.allclose(other, right, rtol=1e-2)


def test_many_steps_neither_underflow_nor_overflow():
    """Where dividing by the running product of a would give NaN."""
    a, b = torch.full((3_000, 1), 0.5), torch.ones(3_000, 1)
    close(scan(a, b)[-1], torch.tensor([2.0]))
    lam = torch.polar(torch.ones(1), torch.tensor([2 * math.pi / 8]))
    h = scan(lam.expand(4_096, 1), torch.ones(4_096, 1, dtype=torch.complex64))
    assert h[-1].abs() < 1e-2 and h.abs().max() < 2.7  # the 8th roots of unity sum to 0


@pytest.mark.parametrize(
    ("a", "b", "error", "says"),
    [
        (torch.ones(3, 2), torch.ones(3, 2).double(), ValueError, "one type for both"),
        (torch.ones(3, 2, dtype=torch.cfloat), torch.ones(3, 2), ValueError, "complex64"),
        (torch.ones(4, 1, 1), torch.ones(3, 2), ValueError, r"a \(4, 1, 1\)"),
        (torch.ones(3, 5), torch.ones(3, 2), RuntimeError, "broadcast"),
    ],
)
def test_what_does_not_fit_is_refused(a, b, error, says):
    with pytest.raises(error, match=says):
        scan(a, b)


def test_over_time_is_the_layer_at_each_step():
    layer, x = StackedLinear([0, 1], 3, 5).double(), draw(2, 4, 6, 3)
    y = over_time(layer, x)
    assert y.shape == (2, 4, 6, 5)
    for t in range(6):
        close(y[:, :, t], layer(x[:, :, t]))


@both
@pytest.mark.parametrize("phase", [0.0, 1.5])
def test_diagonal_linear_in_numpy(parallel, phase):
    layer, x = DiagonalLinear([0, 1], 3, 4, phase=phase).double(), draw(2, 5, 9, 3)
    layer.parallel = parallel
    y = layer(x).detach().numpy()
    assert y.shape == (2, 5, 9, 8 if phase else 4)
    for s in range(2):
        p = {name: v.detach().numpy()[s] for name, v in layer.named_parameters()}
        drive = x[s].numpy() @ p["drive.weight"] + p["drive.bias"]
        lam = np.exp(-np.exp(p["nu"]))
        if phase:
            drive, lam = drive[..., :4] + 1j * drive[..., 4:], lam * np.exp(1j * p["theta"])
        h = recurrence(np.broadcast_to(lam, (9, 4)), p["gamma"] * drive)
        np.testing.assert_allclose(y[s], np.concatenate([h.real, h.imag], -1) if phase else h, rtol=1e-9, atol=1e-12)


def test_eigenvalues_start_evenly_in_the_ring():
    layer = DiagonalLinear(range(20), 1, 500, radius=(0.6, 0.9), phase=1.0)
    lam = layer.eigenvalues().detach()
    modulus, angle = lam.abs(), lam.angle()
    assert modulus.min() > 0.6 and modulus.max() < 0.9 and angle.min() > 0 and angle.max() < 1
    assert abs((modulus**2).mean() - (0.36 + 0.81) / 2) < 0.004  # even in area; even in radius would give 0.57
    close(layer.gamma.detach() ** 2 + modulus**2, torch.ones_like(modulus))
    assert DiagonalLinear([0], 1, 4).eigenvalues().dtype == torch.float32


@pytest.mark.parametrize("radius", [(0.9, 1.0), (0.0, 0.5), (0.9, 0.8)])
def test_a_ring_that_is_none_is_refused(radius):
    with pytest.raises(ValueError, match="radius"):
        DiagonalLinear([0], 1, 4, radius=radius)


@both
def test_min_gru_in_numpy(parallel):
    layer, x = MinGRU([3, 4], 3, 4, memory=30).double(), draw(2, 5, 9, 3)
    layer.parallel = parallel
    y = layer(x).detach().numpy()
    for s in range(2):
        both = x[s].numpy() @ layer.both.weight.detach().numpy()[s] + layer.both.bias.detach().numpy()[s]
        z = 1 / (1 + np.exp(-both[..., :4]))
        np.testing.assert_allclose(y[s], recurrence(1 - z, z * both[..., 4:]), rtol=1e-9, atol=1e-12)
        swapped = recurrence(z, (1 - z) * both[..., 4:])
        assert not np.allclose(y[s], swapped, rtol=1e-2)


def test_min_gru_starts_with_the_memory_asked_for():
    times = 1 / torch.sigmoid(MinGRU(range(20), 1, 500, memory=100).both.bias[..., :500].detach())
    assert times.min() >= 2 - 1e-5 and times.max() < 100 and abs(times.mean() - 51) < 1.5
    with pytest.raises(ValueError, match="memory"):
        MinGRU([0], 1, 4, memory=1)


@pytest.mark.parametrize("kind", [MinGRU, lambda seeds, *sizes: DiagonalLinear(seeds, *sizes, phase=1.0)])
def test_a_start_depends_on_its_own_seed_only(kind):
    alone, together = dict(kind([7], 3, 4).named_parameters()), dict(kind([5, 7, 7], 3, 4).named_parameters())
    for name, value in alone.items():
        close(value[0], together[name][1], rtol=0, atol=0)
        close(together[name][1], together[name][2], rtol=0, atol=0)
        assert not torch.equal(together[name][0], together[name][1])
