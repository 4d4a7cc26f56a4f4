"""Many small networks trained at once: one more dimension in front of every weight, one batched product for all.

S networks of one shape, with different seeds or settings, cost far less together than one after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """S linear layers side by side: y_s = x_s W_s + b_s. (S, B, fan_in) -> (S, B, fan_out).

    weight: (S, fan_in, fan_out); bias: (S, 1, fan_out); both uniform within ±1/√fan_in at the start, as in `nn.Linear`.
    """

    def __init__(self, seeds: Sequence[int], fan_in: int, fan_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        draws = torch.stack([_uniform(seed, fan_in + 1, fan_out) for seed in seeds]) * bound  # (S, fan_in + 1, fan_out)
        self.weight, self.bias = nn.Parameter(draws[:, :-1].clone()), nn.Parameter(draws[:, -1:].clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (S, B, fan_in) -> (S, B, fan_out). Raises ValueError for another shape."""
        stack, fan_in, _ = self.weight.shape
        if x.dim() != 3 or x.shape[0] != stack or x.shape[2] != fan_in:
            raise ValueError(f"these {stack} stacked layers take ({stack}, B, {fan_in}), got {tuple(x.shape)}; expand x first")
        return torch.baddbmm(self.bias, x, self.weight)


def stacked_mlp(seeds: Sequence[int], sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """One multilayer perceptron a seed, all of the given sizes: (S, B, sizes[0]) -> (S, B, sizes[-1]).

    seeds: S whole numbers. A network's start depends on its own seed only, not on its neighbours; equal seeds start equal.
    No activation after the last layer. Raises ValueError for no seeds or fewer than two sizes.
    """
    if not len(seeds) or len(sizes) < 2:
        raise ValueError(f"got {len(seeds)} seeds and sizes {tuple(sizes)}: expected one seed or more and two sizes or more")
    layers: list[nn.Module] = []
    for depth, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers += [StackedLinear([1000 * seed + depth for seed in seeds], fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def _uniform(seed: int, *shape: int) -> Tensor:
    """Numbers between -1 and 1 that depend on the seed and the shape only."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1
