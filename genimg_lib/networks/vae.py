"""Variational auto-encoders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..distributions import reparameterize


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of the given sizes with an activation between, none after the last. (…, sizes[0]) -> (…, sizes[-1])."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


class MLPVAE(nn.Module):
    """A fully connected VAE: q(z|x) = N(μ(x), diag σ²(x)), p(x|z) Bernoulli with logits from the decoder.

    image_shape: (C, H, W); hidden: widths of the encoder's hidden layers (the decoder's are the same, reversed).
    (1, 28, 28), (400,), 20 with ReLU is the network of PyTorch's own example.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, ...] = (400,),
        latent_dim: int = 20,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        pixels = math.prod(image_shape)
        self.image_shape, self.latent_dim = tuple(image_shape), latent_dim
        self.encoder = mlp([pixels, *hidden, 2 * latent_dim], activation)
        self.decoder = mlp([latent_dim, *reversed(hidden), pixels], activation)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [0, 1] -> mu, logvar, each (B, latent_dim). Raises ValueError for images of another shape."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"this VAE takes images {('B', *self.image_shape)}, got {tuple(x.shape)}")
        mu, logvar = self.encoder(x.flatten(1)).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """z (…, latent_dim) -> logits (…, C, H, W)."""
        return self.decoder(z).unflatten(-1, self.image_shape)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, H, W) -> logits (B, C, H, W), mu, logvar, z (B, latent_dim): one sample z of q(z|x), decoded."""
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, generator)
        return self.decode(z), mu, logvar, z
