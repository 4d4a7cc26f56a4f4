"""Stacked networks against `nn.Linear` and NumPy, one network at a time; and training together against training alone."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genimg_lib.networks.stacked import StackedLinear, stacked_mlp

close = torch.testing.assert_close
SIZES = [4, 7, 5, 3]


def batch(stack: int, n: int = 6) -> Tensor:
    return torch.randn(stack, n, SIZES[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linears(network: nn.Sequential) -> list[StackedLinear]:
    return [layer for layer in network if isinstance(layer, StackedLinear)]


def single(network: nn.Sequential, place: int) -> nn.Sequential:
    """The network at one place of the stack, as PyTorch's own layers."""
    layers: list[nn.Module] = []
    for stacked in linears(network):
        _, fan_in, fan_out = stacked.weight.shape
        layer = nn.Linear(fan_in, fan_out, dtype=stacked.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(stacked.weight[place].T)
            layer.bias.copy_(stacked.bias[place, 0])
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def test_each_network_is_the_plain_one():
    network, x = stacked_mlp([0, 1, 2], SIZES, nn.Tanh).double(), batch(3)
    y = network(x)
    assert y.shape == (3, 6, 3)
    for place in range(3):
        close(y[place], single(network, place)(x[place]))


def test_a_layer_in_numpy():
    layer, x = StackedLinear([3, 4], 4, 2).double(), batch(2)
    by_hand = np.einsum("sbi,sio->sbo", x.numpy(), layer.weight.detach().numpy()) + layer.bias.detach().numpy()
    close(layer(x).detach().numpy(), by_hand)


@pytest.mark.parametrize("wrong", ["weights of the neighbour", "no bias", "activation after the last layer"])
def test_known_wrong_versions_differ(wrong):
    network, x = stacked_mlp([0, 1], SIZES, nn.Tanh).double(), batch(2)
    right = network(x)
    if wrong == "weights of the neighbour":
        other = network(x.flip(0)).flip(0)
    elif wrong == "no bias":
        other = x
        for place, layer in enumerate(linears(network)):
            other = (other if place == 0 else other.tanh()) @ layer.weight
    else:
        other = right.tanh()
    assert not torch.allclose(right, other, rtol=1e-3)


def test_a_start_depends_on_its_own_seed_only():
    alone, together = stacked_mlp([7], SIZES), stacked_mlp([5, 7, 7], SIZES)
    for a, b in zip(linears(alone), linears(together), strict=True):
        close(a.weight[0], b.weight[1], rtol=0, atol=0)
        close(b.bias[1], b.bias[2], rtol=0, atol=0)
        assert not torch.equal(b.weight[0], b.weight[1])
    first, second = (layer.weight[0].flatten()[:12] for layer in linears(alone)[:2])
    assert not torch.equal(first * SIZES[0] ** 0.5, second * SIZES[1] ** 0.5), "layers of one network share their draws"


def test_the_start_is_uniform_within_the_bound_of_nn_linear():
    layer = StackedLinear(range(50), 16, 40)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= 0.25
        assert abs(values.mean().item()) < 5 * 0.25 / (3 * values.numel()) ** 0.5
        assert abs(values.var().item() / (0.25**2 / 3) - 1) < 0.1


def test_no_global_random_numbers_are_used():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stacked_mlp([1, 2], SIZES)
    assert torch.equal(before, torch.get_rng_state())


def test_training_together_is_training_alone():
    """The sum of the losses gives each network its own gradient, and Adam keeps them apart."""
    x, target = batch(2), torch.ones(2, 6, 3, dtype=torch.float64)
    together = stacked_mlp([0, 1], SIZES).double()
    alone = [stacked_mlp([seed], SIZES).double() for seed in (0, 1)]
    for network, rows in [(together, slice(0, 2)), (alone[0], slice(0, 1)), (alone[1], slice(1, 2))]:
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            (network(x[rows]) - target[rows]).square().mean((1, 2)).sum().backward()
            optimizer.step()
    for place, network in enumerate(alone):
        for a, b in zip(network.parameters(), together.parameters(), strict=True):
            close(a[0], b[place])


def test_layers_and_their_order():
    network = stacked_mlp([0], SIZES)
    assert [type(layer) for layer in network] == [StackedLinear, nn.ReLU, StackedLinear, nn.ReLU, StackedLinear]
    shapes = [tuple(layer.weight.shape) for layer in linears(network)]
    assert shapes == [(1, i, o) for i, o in itertools.pairwise(SIZES)]


@pytest.mark.parametrize("shape", [(6, 4), (3, 6, 4), (2, 6, 5), (1, 6, 4)])
def test_other_shapes_are_refused(shape):
    message = f"these 2 stacked layers take (2, B, 4), got {shape}; expand x first"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        StackedLinear([0, 1], 4, 3)(torch.zeros(shape))


@pytest.mark.parametrize(("seeds", "sizes"), [([], [4, 3]), ([0], [4]), ([0], [])])
def test_empty_stacks_are_refused(seeds, sizes):
    with pytest.raises(ValueError, match="expected one seed or more and two sizes or more"):
        stacked_mlp(seeds, sizes)
