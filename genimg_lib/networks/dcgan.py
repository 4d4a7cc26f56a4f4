"""Generator and discriminator of a deep convolutional GAN, for square images of 16, 28 or 32 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

PLANS = {16: (4, 2), 28: (7, 2), 32: (4, 3)}  # image side -> (side of the smallest map, number of doublings)


def dcgan_init(net: nn.Module) -> None:
    """Weights of (transposed) convolutions ~ N(0, 0.02²); BatchNorm's γ ~ N(1, 0.02²); every offset 0. In place.

    Radford, Metz & Chintala (2016), section 4, for the weights; γ as in their published code.
    """
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            nn.init.normal_(layer.weight, 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Generator(nn.Module):
    """z (B, latent_dim) -> images (B, channels, size, size) in [-1, 1].

    A transposed convolution makes the smallest map (4 x 4 or 7 x 7); each further one doubles its side (kernel 4, stride 2,
    padding 1: no uneven overlaps) and halves the channels, `width` of them before the image. norm: "batch", BatchNorm before
    each ReLU and none at the output; or "none". Radford, Metz & Chintala (2016).
    """

    def __init__(self, latent_dim: int = 64, width: int = 32, size: int = 28, channels: int = 1, norm: str = "batch") -> None:
        super().__init__()
        base, doublings = _plan(size, channels, norm, ("batch", "none"))
        self.latent_dim, self.image_shape = latent_dim, (channels, size, size)
        wide = width * 2 ** (doublings - 1)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, wide, base, bias=norm == "none")]  # (B, wide, base, base)
        for _ in range(doublings):
            last = wide == width
            layers += [nn.BatchNorm2d(wide), nn.ReLU()] if norm == "batch" else [nn.ReLU()]
            layers.append(nn.ConvTranspose2d(wide, channels if last else wide // 2, 4, 2, 1, bias=last or norm == "none"))
            wide //= 2
        self.net = nn.Sequential(*layers, nn.Tanh())
        dcgan_init(self)

    def forward(self, z: Tensor) -> Tensor:
        """z (B, latent_dim) -> (B, C, H, W) in [-1, 1]. Raises ValueError for another shape."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"this generator takes z {('B', self.latent_dim)}, got {tuple(z.shape)}")
        return self.net(z[:, :, None, None])


class Discriminator(nn.Module):
    """Images (B, channels, size, size) in [-1, 1] -> logits (B,), no sigmoid applied.

    The generator's way back: each convolution (kernel 4, stride 2, padding 1) halves the side and doubles the channels, `width`
    of them first; LeakyReLU with slope 0.2; a last one as large as the map gives one number. norm: "batch", BatchNorm in all
    layers but the first and the last (then one image's logit depends on its batch); "spectral", torch's parametrization on
    every convolution; or "none". Radford, Metz & Chintala (2016); Miyato et al. (2018).
    """

    def __init__(self, width: int = 32, size: int = 28, channels: int = 1, norm: str = "batch") -> None:
        super().__init__()
        base, halvings = _plan(size, channels, norm, ("batch", "none", "spectral"))
        self.image_shape = (channels, size, size)
        layers: list[nn.Module] = []
        for depth in range(halvings):
            fan_in, fan_out = channels if depth == 0 else width * 2 ** (depth - 1), width * 2**depth
            normed = norm == "batch" and depth > 0
            layers.append(nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=not normed))
            layers += [nn.BatchNorm2d(fan_out)] if normed else []
            layers.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*layers, nn.Conv2d(width * 2 ** (halvings - 1), 1, base))
        dcgan_init(self)
        if norm == "spectral":
            for layer in self.net:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) in [-1, 1] -> logits (B,). Raises ValueError for another shape."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"this discriminator takes images {('B', *self.image_shape)}, got {tuple(x.shape)}")
        return self.net(x).flatten()


def _plan(size: int, channels: int, norm: str, norms: tuple[str, ...]) -> tuple[int, int]:
    if size not in PLANS:
        raise ValueError(f"size={size!r}: expected a side of 16, 28 or 32 pixels; resize the images")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels!r}: expected 1 (grey) or 3 (colour)")
    if norm not in norms:
        raise ValueError(f"norm={norm!r}: expected one of {norms}")
    return PLANS[size]


def sample(G: Generator, n: int, generator: torch.Generator | None = None, batch_size: int = 500) -> Tensor:
    """n images of G in [0, 1], the first n of the generator's stream: z ~ N(0, I), drawn on the CPU. No gradients."""
    device = next(G.parameters()).device
    with torch.no_grad():
        z = torch.randn(n, G.latent_dim, generator=generator).to(device)
        return torch.cat([(G(part) + 1) / 2 for part in z.split(batch_size)])
