"""genimg_lib.networks against a forward pass in NumPy, PyTorch's example VAE (its layers and count), and autograd."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from genimg_lib.networks import MLPVAE
from genimg_lib.networks.vae import mlp

close = torch.testing.assert_close


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**options) -> MLPVAE:
    torch.manual_seed(0)
    return MLPVAE(image_shape=(2, 3, 4), hidden=(7, 5), latent_dim=3, **options).double()


def images(n: int) -> Tensor:
    return torch.rand(n, 2, 3, 4, generator=rng(1), dtype=torch.float64)


def by_hand(network: nn.Sequential, x: Tensor, activation=lambda a: np.maximum(a, 0)) -> np.ndarray:
    """The same layers in NumPy: an activation between, none after the last."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    h = x.numpy()
    for i, layer in enumerate(layers):
        h = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        h = activation(h) if i < len(layers) - 1 else h
    return h


def test_default_is_the_network_of_pytorchs_example():
    theirs = [nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20), nn.Linear(20, 400), nn.Linear(400, 784)]
    model = MLPVAE()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for layer in theirs for p in layer.parameters())
    assert [type(layer) for layer in model.encoder] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in model.decoder] == [nn.Linear, nn.ReLU, nn.Linear]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(1, 6), max_size=2), st.integers(0, 3))
def test_shapes(channels, side, latent_dim, hidden, batch):
    shape = (channels, side, side + 1)
    model = MLPVAE(image_shape=shape, hidden=tuple(hidden), latent_dim=latent_dim)
    logits, mu, logvar, z = model(torch.rand(batch, *shape))
    assert logits.shape == (batch, *shape)
    assert mu.shape == logvar.shape == z.shape == (batch, latent_dim)
    assert model.decode(torch.zeros(5, batch, latent_dim)).shape == (5, batch, *shape)
    assert model.decode(torch.zeros(latent_dim)).shape == shape


def test_encoder_and_decoder_are_the_layers_they_say():
    model, x = small(), images(6)
    mu, logvar = model.encode(x)
    both = by_hand(model.encoder, x.reshape(6, 24))
    close(mu.detach().numpy(), both[:, :3])
    close(logvar.detach().numpy(), both[:, 3:])
    logits = model.decode(mu.detach())
    close(logits.detach().numpy(), by_hand(model.decoder, mu.detach()).reshape(6, 2, 3, 4))


def test_hidden_widths_are_reversed_in_the_decoder_and_the_activation_is_the_one_given():
    model = small(activation=nn.Tanh)
    widths = [[layer.out_features for layer in half if isinstance(layer, nn.Linear)] for half in (model.encoder, model.decoder)]
    assert widths == [[7, 5, 6], [5, 7, 24]]
    mu, _ = model.encode(images(4))
    close(mu.detach().numpy(), by_hand(model.encoder, images(4).reshape(4, 24), np.tanh)[:, :3])


def test_without_hidden_layers_it_is_linear():
    model = MLPVAE(image_shape=(1, 2, 2), hidden=(), latent_dim=2).double()
    a, b = torch.rand(2, 3, 2, generator=rng(2), dtype=torch.float64)
    close(model.decode(a + b) + model.decode(0 * a), model.decode(a) + model.decode(b))
    assert [type(layer) for layer in mlp([4, 2], nn.ReLU)] == [nn.Linear]


def test_many_samples_decode_as_one_by_one():
    model, z = small(), torch.randn(5, 4, 3, generator=rng(3), dtype=torch.float64)
    close(model.decode(z)[2, 1], model.decode(z[2, 1]))


def test_forward_is_encode_sample_decode():
    model, x = small(), images(4)
    logits, mu, logvar, z = model(x, rng(4))
    close((mu, logvar), model.encode(x), rtol=0, atol=0)
    close(logits, model.decode(z))
    close(z, model(x, rng(4))[3], rtol=0, atol=0)
    assert not torch.equal(z, model(x, rng(5))[3])


def test_z_has_the_moments_of_q():
    model, n = small(), 4000
    x = images(1).expand(n, -1, -1, -1)
    _, mu, logvar, z = model(x, rng(6))
    standard = ((z - mu) / torch.exp(logvar).sqrt()).detach()
    assert bool((standard.mean(0).abs() < 4.5 / n**0.5).all())
    assert bool((standard.var(0) - 1).abs().max() < 4.5 * (2 / n) ** 0.5)


def test_gradients_reach_every_parameter_through_the_sample():
    model = small(activation=nn.Tanh)
    logits, *_ = model(images(4), rng(7))
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any()), name


@pytest.mark.parametrize("shape", [(4, 2, 4, 3), (2, 3, 4), (4, 1, 3, 4), (4, 24), (24,)])
def test_images_of_another_shape_are_refused(shape):
    message = f"this VAE takes images ('B', 2, 3, 4), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small().encode(torch.zeros(shape, dtype=torch.float64))


def sample_has_logvar(forward) -> None:
    """With encoder biases μ = 2, log σ² = 4 and weights 0, z is N(2, e⁴)."""
    model = small()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        model.encoder[-1].bias.copy_(torch.tensor([2.0] * 3 + [4.0] * 3))
        z = forward(model, images(1).expand(3000, -1, -1, -1), rng(8))[3]
    assert abs(z.mean().item() - 2) < 4.5 * np.e**2 / 9000**0.5
    assert abs(z.std().item() / np.e**2 - 1) < 4.5 / 18000**0.5


def test_sample_has_logvar():
    sample_has_logvar(MLPVAE.forward)


@pytest.mark.parametrize("wrong", ["z = μ", "z = μ + σ² ε", "z = μ exp(log σ²)", "halves swapped"])
def test_a_wrong_sample_is_caught(wrong):
    def forward(model, x, generator):
        mu, logvar = model.encode(x)
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype)
        z = {
            "z = μ": mu,
            "z = μ + σ² ε": mu + logvar.exp() * noise,
            "z = μ exp(log σ²)": mu * logvar.exp(),
            "halves swapped": logvar + torch.exp(mu / 2) * noise,
        }[wrong]
        return model.decode(z), mu, logvar, z

    with pytest.raises(AssertionError):
        sample_has_logvar(forward)
