"""Networks side by side do not see each other; every kind changes what its name says, and nothing else."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from bench import dcgan_ablation as ablation
from bench.dcgan_ablation import KINDS, Kind, discriminator, distances, generator, play

S = 3


def noise(n: int = 5) -> torch.Tensor:
    return torch.randn(n, S * ablation.LATENT, 1, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_shapes_and_no_leak_between_networks(kind):
    torch.manual_seed(0)
    G, D, z = generator(kind, S, w=2), discriminator(kind, S, w=2), noise().requires_grad_()
    x = G(z)
    assert x.shape == (5, S, 16, 16) and D(x).shape == (5, S, 1, 1)
    weight = torch.randn(x[:, 1].shape)  # a plain sum would be constant under BatchNorm
    (gradient,) = torch.autograd.grad((x[:, 1] * weight).sum(), z, retain_graph=True)
    own = gradient.view(5, S, -1).abs().sum((0, 2)) > 0
    assert own.tolist() == [False, True, False]
    (gradient,) = torch.autograd.grad((D(x)[:, 2, 0, 0] * torch.randn(5)).sum(), x)
    assert (gradient.abs().sum((0, 2, 3)) > 0).tolist() == [False, False, True]


def test_a_network_without_groups_would_leak():
    leaky = nn.Sequential(nn.ConvTranspose2d(S * ablation.LATENT, S, 16))
    z = noise().requires_grad_()
    (gradient,) = torch.autograd.grad(leaky(z)[:, 1].sum(), z)
    assert (gradient.view(5, S, -1).abs().sum((0, 2)) > 0).all()


def test_each_kind_changes_one_thing():
    recipe = asdict(KINDS[0])
    assert KINDS[0] == Kind() and len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS[1:]:
        changed = {key for key, value in asdict(kind).items() if value != recipe[key]} - {"name"}
        assert len(changed) == 1 or changed == {"norm_G", "norm_D"}, kind


def test_what_the_kinds_are():
    def count(net, layer):
        return sum(isinstance(part, layer) for part in net)

    norms = {kind.name: [count(f(kind, S), nn.BatchNorm2d) for f in (generator, discriminator)] for kind in KINDS}
    assert norms["the recipe"] == [2, 1] and norms["no BatchNorm in G"] == [0, 1] and norms["no BatchNorm in D"] == [2, 0]
    assert norms["no BatchNorm at all"] == [0, 0] and norms["BatchNorm at the output and the input too"] == [3, 2]
    for kind in KINDS:
        gammas = [layer.weight.mean().item() for layer in generator(kind, S) if isinstance(layer, nn.BatchNorm2d)]
        assert all(abs(gamma - kind.gamma) < 0.05 for gamma in gammas)
        weight = next(iter(generator(kind, S, w=8))).weight
        assert (abs(weight.std().item() - 0.02) < 0.001) == (kind.std > 0)
        assert count(generator(kind, S), nn.Tanh) == kind.tanh and count(discriminator(kind, S), nn.AvgPool2d) == 2 * kind.pool


def test_a_short_game_learns_something(monkeypatch):
    monkeypatch.setattr(ablation, "SAMPLES", 100)
    images, test = ablation.glyphs("train", 500), ablation.glyphs("test", 100)
    real = ablation.features_of(test)
    before, after = (distances(play(Kind(), 4e-3, (0, 1), steps, images), real) for steps in (1, 120))
    assert max(after) < 0.7 * min(before)
    darker = play(replace(Kind(), low=0.0), 4e-3, (0,), 1, images)
    assert darker.shape == (1, 100, 1, 16, 16) and 0 <= float(darker.min()) <= float(darker.max()) <= 1
