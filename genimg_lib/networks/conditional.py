"""A generator that is told the class to draw, and a discriminator that is told the class it is shown; 16, 28 or 32 pixels."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import update_bn

from .dcgan import _plan, dcgan_init


class ConditionalBatchNorm2d(nn.Module):
    """γ_y (h - μ) / √(σ² + ε) + β_y: γ and β for each class and channel; μ, σ² per channel, of all classes together.

    In training μ, σ² are the batch's (mean over B, H, W), in evaluation running means: then an image no longer depends on its
    batch. γ_y starts at 1, β_y at 0. de Vries et al. (2017); Dumoulin, Shlens & Kudlur (2017) for instance normalisation.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels, affine=False)
        self.gamma = nn.Embedding.from_pretrained(torch.ones(classes, channels), freeze=False)
        self.beta = nn.Embedding.from_pretrained(torch.zeros(classes, channels), freeze=False)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """h (B, channels, H, W), labels y (B,) -> the shape of h. Raises ValueError for other labels."""
        _check_labels(y, len(h), self.gamma.num_embeddings)
        return self.gamma(y)[:, :, None, None] * self.normalise(h) + self.beta(y)[:, :, None, None]


class Generator(nn.Module):
    """z (B, latent_dim) and labels y (B,) -> images (B, channels, size, size) in [-1, 1].

    The DCGAN's generator with conditional BatchNorm before each ReLU. Beside z its first layer gets embed_dim learned numbers
    of the class, which so decides on the coarse layout too; with embed_dim=0 it only scales and shifts.
    """

    def __init__(
        self, classes: int, latent_dim: int = 64, width: int = 32, size: int = 28, channels: int = 1, embed_dim: int = 32
    ) -> None:
        super().__init__()
        base, doublings = _plan(size, channels, "batch", ("batch",))
        self.classes, self.latent_dim, self.image_shape = classes, latent_dim, (channels, size, size)
        wide = [width * 2**power for power in reversed(range(doublings))]  # channels of the hidden maps
        self.embed = nn.Embedding(classes, embed_dim)
        self.first = nn.Linear(latent_dim + embed_dim, wide[0] * base**2, bias=False)  # as a transposed convolution of 1 x 1
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(c, classes) for c in wide)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(c, d, 4, 2, 1, bias=d == channels) for c, d in pairwise([*wide, channels]))
        nn.init.normal_(self.first.weight, 0.0, 0.02)
        dcgan_init(self.ups)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (B, latent_dim), y (B,) -> (B, C, H, W) in [-1, 1]. Raises ValueError for another shape or other labels."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"this generator takes z {('B', self.latent_dim)}, got {tuple(z.shape)}")
        _check_labels(y, len(z), self.classes)
        side = self.image_shape[1] // 2 ** len(self.ups)
        h = self.first(torch.cat([z, self.embed(y)], 1)).view(len(z), -1, side, side)
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(norm(h, y).relu())
        return h.tanh()


class ProjectionDiscriminator(nn.Module):
    """Images x (B, channels, size, size) in [-1, 1] and labels y (B,) -> logits ψ(φ(x)) + ⟨e_y, φ(x)⟩ (B,), no sigmoid.

    φ: the DCGAN's convolutions and a dense layer to `features` numbers, each with LeakyReLU (slope 0.2); ψ: linear;
    e_y: a learned vector per class. head(features(x)): class logits (B, classes), y unseen, for an auxiliary loss. norm: "none"
    or "spectral", on φ, ψ and the table of the e_y. Miyato & Koyama (2018), section 3; the head: Odena, Olah & Shlens (2017).
    """

    def __init__(
        self, classes: int, width: int = 32, size: int = 28, channels: int = 1, features: int = 128, norm: str = "none"
    ) -> None:
        super().__init__()
        base, halvings = _plan(size, channels, norm, ("none", "spectral"))
        self.classes, self.image_shape = classes, (channels, size, size)
        wide = [channels, *(width * 2**power for power in range(halvings))]
        layers = [module for c, d in pairwise(wide) for module in (nn.Conv2d(c, d, 4, 2, 1), nn.LeakyReLU(0.2))]
        self.phi = nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide[-1] * base**2, features), nn.LeakyReLU(0.2))
        self.psi, self.embed, self.head = nn.Linear(features, 1), nn.Embedding(classes, features), nn.Linear(features, classes)
        for layer in self.phi:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, 0.2)  # keeps the size of a signal: He et al. (2015)
        for layer in (*self.phi, self.psi, self.embed):
            if norm == "spectral" and hasattr(layer, "weight"):
                spectral_norm(layer)

    def features(self, x: Tensor) -> Tensor:
        """φ(x) (B, features) of x (B, C, H, W) in [-1, 1]. Raises ValueError for another shape."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"this discriminator takes images {('B', *self.image_shape)}, got {tuple(x.shape)}")
        return self.phi(x)

    def logits(self, phi: Tensor, y: Tensor) -> Tensor:
        """ψ(φ) + ⟨e_y, φ⟩ (B,) of features φ (B, features) and labels (B,). Raises ValueError for other labels."""
        _check_labels(y, len(phi), self.classes)
        return self.psi(phi).squeeze(1) + (self.embed(y) * phi).sum(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, C, H, W) in [-1, 1], y (B,) -> logits (B,). Raises ValueError for another shape or other labels."""
        return self.logits(self.features(x), y)


def _check_labels(y: Tensor, n: int, classes: int) -> None:
    if y.dtype != torch.int64 or tuple(y.shape) != (n,):
        raise ValueError(f"labels are {y.dtype} {tuple(y.shape)}: expected torch.int64 {(n,)}, a class for each image")
    if n and not y.is_cuda and not (int(y.min()) >= 0 and int(y.max()) < classes):  # a GPU would have to be waited for
        raise ValueError(f"labels span {int(y.min())} to {int(y.max())}: expected 0 to {classes - 1}")


def update_statistics(net: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """BatchNorm's running statistics anew, in place: plain means over the batches (z, y). torch's update_bn takes one input."""
    net_of_pair = nn.Module()
    net_of_pair.net, net_of_pair.training, net_of_pair.forward = net, net.training, lambda pair: net(*pair)
    update_bn(((pair,) for pair in pairs), net_of_pair)


def sample(G: Generator, y: Tensor, generator: torch.Generator | None = None, batch_size: int = 500) -> Tensor:
    """An image of G in [0, 1] for each label y (B,): z ~ N(0, I), drawn on the CPU from the stream. No gradients."""
    device = next(G.parameters()).device
    with torch.no_grad():
        z = torch.randn(len(y), G.latent_dim, generator=generator).to(device)
        pairs = zip(z.split(batch_size), y.to(device).split(batch_size), strict=True)
        return torch.cat([(G(*pair) + 1) / 2 for pair in pairs])
