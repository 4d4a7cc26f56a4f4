"""Recurrences without squashing, h_t = a_t ⊙ h_{t-1} + b_t: ⌈log2 T⌉ rounds for T steps, and many seeds at once.

Two layers, both with one more dimension S in front, one network per seed: `DiagonalLinear` (a the same at all steps) and
`MinGRU` (a a gate that reads the input). They take x (S, B, T, fan_in): time is the last dimension but one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .stacked import StackedLinear


def scan(a: Tensor, b: Tensor, *, parallel: bool = True) -> Tensor:
    """All states of h_t = a_t h_{t-1} + b_t with h_0 = 0, time on dimension -2: a and b (..., T, H) -> h (..., T, H).

    a broadcasts to b's shape; both real or both complex. parallel: by doubling (Hillis & Steele 1986), else step by step:
    less arithmetic, and on one core the faster of the two where a step is large. No division, so nothing overflows while
    |a_t| <= 1. Raises ValueError for two types or an a larger than b, RuntimeError for shapes that do not broadcast.
    """
    if a.dtype != b.dtype or torch.broadcast_shapes(a.shape, b.shape) != b.shape:
        given = f"a {tuple(a.shape)} {a.dtype}, b {tuple(b.shape)} {b.dtype}"
        raise ValueError(f"{given}: expected one type for both, and a's shape no larger than b's (..., T, H)")
    return _Scan.apply(a.expand_as(b), b, parallel)


class _Scan(torch.autograd.Function):
    """The gradient is a scan from the last step to the first: δ_t = ∂L/∂h_t + ā_{t+1} δ_{t+1}, ∂L/∂a_t = δ_t h̄_{t-1}."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, parallel: bool) -> Tensor:  # type: ignore[override]
        h = (_double if parallel else _step)(a, b)
        ctx.save_for_backward(a, h)
        ctx.parallel = parallel
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        a, h = ctx.saved_tensors
        later = torch.cat([a[..., 1:, :], torch.zeros_like(a[..., :1, :])], dim=-2).conj()  # ā_{t+1}
        delta = scan(later.flip(-2), g.flip(-2), parallel=ctx.parallel).flip(-2)
        before = torch.cat([torch.zeros_like(h[..., :1, :]), h[..., :-1, :]], dim=-2)  # h_{t-1}
        return delta * before.conj(), delta, None


def _double(a: Tensor, b: Tensor) -> Tensor:
    """Before the round with shift k, place t holds the last k inputs, each times the a's that came after it; after it, 2k."""
    shift, b = 1, b.clone()
    while shift < b.shape[-2]:
        b = torch.cat([b[..., :shift, :], torch.addcmul(b[..., shift:, :], a[..., shift:, :], b[..., :-shift, :])], dim=-2)
        a = torch.cat([a[..., :shift, :], a[..., shift:, :] * a[..., :-shift, :]], dim=-2)
        shift *= 2
    return b


def _step(a: Tensor, b: Tensor) -> Tensor:
    h = b.clone()
    for t in range(1, b.shape[-2]):
        h[..., t, :].addcmul_(a[..., t, :], h[..., t - 1, :])
    return h


def over_time(layer: nn.Module, x: Tensor) -> Tensor:
    """A stacked layer at every step of every sequence: (S, B, T, fan_in) -> (S, B, T, fan_out)."""
    return layer(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


def _uniform(seeds: Sequence[int], count: int) -> Tensor:
    """Numbers in [0, 1), (S, 1, count); each row depends on its own seed only."""
    return torch.stack([torch.rand(1, count, generator=torch.Generator().manual_seed(seed + 9_000)) for seed in seeds])


class DiagonalLinear(nn.Module):
    """h_t = λ ⊙ h_{t-1} + γ ⊙ (W x_t + b), λ = exp(-e^ν + iθ). (S, B, T, fan_in) -> (S, B, T, out). Orvieto et al. (2023).

    radius: |λ| at the start, |λ|² uniform between the squares; |λ| < 1 always, as ν is what is trained. phase: θ at the start
    is uniform in [0, phase]. γ = √(1 - |λ|²) at the start, trained too. With phase 0 λ and h are real and out = hidden;
    else they are complex, and the output holds real and imaginary parts, out = 2 hidden. Raises ValueError for radius >= 1.
    """

    def __init__(
        self, seeds: Sequence[int], fan_in: int, hidden: int, radius: tuple[float, float] = (0.9, 0.999), phase: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 < radius[0] <= radius[1] < 1:
            raise ValueError(f"radius is {radius}: expected two numbers with 0 < smaller <= larger < 1")
        modulus, angle = _uniform(seeds, 2 * hidden).chunk(2, dim=-1)  # (S, 1, hidden)
        square = radius[0] ** 2 + modulus * (radius[1] ** 2 - radius[0] ** 2)  # |λ|²
        self.nu = nn.Parameter((-0.5 * square.log()).log())
        self.theta = nn.Parameter(phase * angle) if phase else None
        self.gamma = nn.Parameter((1 - square).sqrt())
        self.drive = StackedLinear(seeds, fan_in, 2 * hidden if phase else hidden)
        self.parallel = True

    def eigenvalues(self) -> Tensor:
        """λ, (S, 1, hidden); complex unless the phase is 0."""
        modulus = torch.exp(-self.nu.exp())
        return modulus if self.theta is None else torch.polar(modulus, self.theta)

    def forward(self, x: Tensor) -> Tensor:
        drive = over_time(self.drive, x)
        drive = drive if self.theta is None else torch.complex(*drive.chunk(2, dim=-1))
        h = scan(self.eigenvalues()[:, None], self.gamma[:, None] * drive, parallel=self.parallel)
        return h if self.theta is None else torch.cat([h.real, h.imag], dim=-1)


class MinGRU(nn.Module):
    """h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ (W x_t + b), z_t = σ(W_z x_t + b_z). (S, B, T, fan_in) -> (S, B, T, hidden).

    Feng et al. (2024): the gate reads the input and never h, so that h_t is linear in h_{t-1}. b_z starts at -log(m - 1), m
    uniform between 2 and `memory` steps, so that 1/z, the time over which a unit averages, is spread (Tallec & Ollivier 2018).
    """

    def __init__(self, seeds: Sequence[int], fan_in: int, hidden: int, memory: float = 100.0) -> None:
        super().__init__()
        if memory < 2:
            raise ValueError(f"memory is {memory} steps: expected 2 or more")
        self.both = StackedLinear(seeds, fan_in, 2 * hidden)  # the gate, then the candidate
        with torch.no_grad():
            self.both.bias[..., :hidden] = -torch.log(1 + _uniform(seeds, hidden) * (memory - 2))
        self.parallel = True

    def forward(self, x: Tensor) -> Tensor:
        gate, candidate = over_time(self.both, x).chunk(2, dim=-1)
        z = torch.sigmoid(gate)
        return scan(1 - z, z * candidate, parallel=self.parallel)
