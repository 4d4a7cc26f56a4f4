"""The convolutional pair: shapes, ranges, initialisation, and what the normalisations promise; known-wrong variants differ."""

import re

import pytest
import torch
from torch import nn

from genimg_lib.networks import dcgan
from genimg_lib.networks.dcgan import Discriminator, Generator, dcgan_init, sample

close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_there_and_back(size, channels, norm):
    G, D = Generator(5, 4, size, channels, norm), Discriminator(4, size, channels, norm)
    x = G(50 * normal(6, 5))
    assert x.shape == (6, channels, size, size) == (6, *G.image_shape) and D.image_shape == G.image_shape
    assert float(x.detach().abs().max()) <= 1
    assert D(x).shape == (6,) and D(x[:1]).shape == (1,)  # not squeezed away
    maps = [m.stride[0] for m in G.net if isinstance(m, nn.ConvTranspose2d)]
    assert maps == [1, 2, 2, 2][: len(maps)] and len(maps) == (4 if size == 32 else 3)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_channels_halve_on_the_way_up_and_double_on_the_way_down(norm):
    G, D = Generator(5, 8, 32, 3, norm), Discriminator(8, 32, 3, norm)
    up = [(m.in_channels, m.out_channels) for m in G.net if isinstance(m, nn.ConvTranspose2d)]
    down = [(m.in_channels, m.out_channels) for m in D.net if isinstance(m, nn.Conv2d)]
    assert up == [(5, 32), (32, 16), (16, 8), (8, 3)] and down == [(3, 8), (8, 16), (16, 32), (32, 1)]


def test_batchnorm_is_where_the_recipe_has_it():
    kinds = [type(m).__name__ for m in Generator(5, 4).net]
    assert kinds == ["ConvTranspose2d", *(["BatchNorm2d", "ReLU", "ConvTranspose2d"] * 2), "Tanh"]  # none at the output
    kinds = [type(m).__name__ for m in Discriminator(4).net]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU", "Conv2d"]  # none at input and output


def test_tanh_and_no_sigmoid():
    torch.manual_seed(0)
    G, D = Generator(5, 4), Discriminator(4)
    before = nn.Sequential(*list(G.net)[:-1])(normal(9, 5)[:, :, None, None])
    close(G.train()(normal(9, 5)), torch.tanh(before), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        D.net[-1].bias.fill_(7.0)
    assert float(D(normal(3, 1, 28, 28)).detach().min()) > 1  # a probability could not


def test_initialisation_has_the_recipes_moments():
    torch.manual_seed(0)
    for net in (Generator(64, 32), Discriminator(64)):
        weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))])
        assert abs(weights.mean().item()) < 5 * 0.02 / len(weights) ** 0.5
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)  # torch's default for these shapes is far from it
        gamma = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
        assert gamma.mean().item() == pytest.approx(1, abs=5 * 0.02 / len(gamma) ** 0.5)
        assert gamma.std().item() == pytest.approx(0.02, rel=0.3)
        assert all(not m.bias.any() for m in net.modules() if getattr(m, "bias", None) is not None)


def test_initialisation_around_zero_would_be_noticed(monkeypatch):
    normal_ = nn.init.normal_
    monkeypatch.setattr(dcgan.nn.init, "normal_", lambda tensor, mean, std: normal_(tensor, 0.0, std))
    with pytest.raises(AssertionError):
        test_initialisation_has_the_recipes_moments()


def test_spectral_norm_is_one_on_every_layer():
    """In training each call runs a step of power iteration; the singular values are NumPy's."""
    torch.manual_seed(0)
    D = Discriminator(8, norm="spectral")
    for _ in range(200):
        D(normal(2, 1, 28, 28))
    D.eval()
    layers = [m for m in D.net if isinstance(m, nn.Conv2d)]
    assert len(layers) == 3
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        assert largest == pytest.approx(1, rel=1e-2)
        original = layer.parametrizations.weight.original.detach().flatten(1)
        assert torch.linalg.matrix_norm(original, 2).item() < 0.9 or original.shape[0] == 1


@pytest.mark.parametrize(("norm", "alone"), [("batch", False), ("none", True), ("spectral", True)])
def test_only_batchnorm_lets_images_of_a_batch_see_each_other(norm, alone):
    torch.manual_seed(0)
    D, x = Discriminator(4, norm=norm), normal(4, 1, 28, 28)
    dcgan_init(nn.Module())  # nothing to set: no error
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(D(x)[0], x)
    assert bool(gradient[0].any()) and (not gradient[1:].any()) == alone


def test_every_parameter_gets_its_gradient():
    torch.manual_seed(0)
    G, D = Generator(5, 4, 16), Discriminator(4, 16, norm="spectral")
    D(G(normal(6, 5))).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for net in (G, D) for p in net.parameters())


def test_samples_are_a_prefix_of_one_stream_and_in_the_unit_interval():
    torch.manual_seed(0)
    G = Generator(5, 4, 16).eval()
    many = sample(G, 7, torch.Generator().manual_seed(3), batch_size=3)
    assert many.shape == (7, 1, 16, 16) and float(many.min()) >= 0 and float(many.max()) <= 1 and not many.requires_grad
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    close(many, (G(z).detach() + 1) / 2)
    assert float((many - G(z).detach()).abs().max()) > 0.4  # the generator's own range is another


@pytest.mark.parametrize("shape", [(3, 4), (3,), (3, 5, 1, 1)])
def test_other_noise_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"this generator takes z ('B', 5), got {shape}")):
        Generator(5, 4)(torch.zeros(shape))


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=re.escape("this discriminator takes images ('B', 1, 28, 28), got (2, 1, 32, 32)")):
        Discriminator(4)(torch.zeros(2, 1, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 30}, "size=30: expected a side of 16, 28 or 32 pixels; resize the images"),
        ({"channels": 2}, "channels=2: expected 1 (grey) or 3 (colour)"),
        ({"norm": "layer"}, "norm='layer': expected one of ('batch', 'none'"),
    ],
)
def test_other_options_are_refused(options, message):
    for net in (Generator, Discriminator):
        with pytest.raises(ValueError, match=re.escape(message)):
            net(**options)
