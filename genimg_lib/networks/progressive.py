"""Networks that grow: colour images of 4 x 4, 8 x 8, 16 x 16, then 32 x 32 pixels. Karras, Aila, Laine & Lehtinen (2018).

A stage is (level, alpha): images have 4 · 2^level pixels a side, and alpha, from 0 to 1, fades the newest block in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4
CHANNELS = (48, 48, 24, 8)  # of the maps 4 x 4, 8 x 8, 16 x 16, 32 x 32


class EqualConv2d(nn.Conv2d):
    """A convolution, kernel 1 or 3, whose side stays: weights N(0, 1) at the start, used times gain/√fan_in; offsets 0.

    Adam moves every stored weight by about its step size, so scaled this way all layers learn at one relative speed.
    Karras et al. (2018), section 4.1; their constant is He's, gain √2 before a (leaky) ReLU.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int = 3, gain: float = math.sqrt(2)) -> None:
        super().__init__(fan_in, fan_out, kernel, padding=kernel // 2, bias=False)
        self.scale = gain / math.sqrt(fan_in * kernel**2)
        nn.init.normal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, fan_in, H, W) -> (B, fan_out, H, W)."""
        return F.conv2d(x, self.scale * self.weight, self.bias, padding=self.padding)


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x (B, C, …) divided, at every place of every image, by the root of the mean square over its C channels."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps)


def minibatch_std(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x (B, C, H, W) -> (B, C + 1, H, W): one more map, constant: the standard deviation over the images (divisor B), averaged
    over channels and places. A batch of equal images has √eps there. It couples images. Karras et al. (2018), section 3.
    """
    std = (x.var(0, unbiased=False) + eps).sqrt().mean()
    return torch.cat([x, std.expand(len(x), 1, *x.shape[2:])], 1)


def grow(x: Tensor) -> Tensor:
    """Every pixel becomes 2 x 2 equal ones."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def at_stage(x: Tensor, level: int, alpha: float = 1.0) -> Tensor:
    """Real images (B, 3, 32, 32) as D gets them at this stage: averaged down, and faded in like the generated ones."""
    x = F.avg_pool2d(x, x.shape[-1] // (4 * 2**level))
    return x if level == 0 or alpha == 1 else torch.lerp(grow(F.avg_pool2d(x, 2)), x, alpha)


class Block(nn.Module):
    """Two convolutions with LeakyReLU (slope 0.2), and, if norm, `pixel_norm` after each."""

    def __init__(self, fan_in: int, fan_out: int, norm: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.norm = EqualConv2d(fan_in, fan_out), EqualConv2d(fan_out, fan_out), norm

    def forward(self, x: Tensor) -> Tensor:
        """x (B, fan_in, H, W) -> (B, fan_out, H, W)."""
        for conv in (self.conv1, self.conv2):
            x = F.leaky_relu(conv(x), 0.2)
            x = pixel_norm(x) if self.norm else x
        return x


class ProgressiveGenerator(nn.Module):
    """z (B, latent_dim) -> images (B, 3, s, s), s = 4 · 2^level; no tanh: data in [-1, 1], what lies outside is cut off.

    z is brought to length √latent_dim first (`pixel_norm`). Each level has its own 1 x 1 convolution to RGB. With h_level its
    map and up = `grow`, the image is (1 - alpha) up(rgb_{level-1}(h_{level-1})) + alpha rgb_level(h_level).
    """

    def __init__(self, latent_dim: int = 64, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.dense = EqualConv2d(latent_dim, 16 * channels[0], 1, gain=math.sqrt(2) / 4)  # as in the paper's code
        self.blocks = nn.ModuleList(Block(i, o, norm=True) for i, o in zip([channels[0], *channels], channels, strict=False))
        self.to_rgb = nn.ModuleList(EqualConv2d(width, 3, 1, gain=1.0) for width in channels)

    def forward(self, z: Tensor, level: int = LEVELS - 1, alpha: float = 1.0) -> Tensor:
        """z (B, latent_dim) -> (B, 3, 4 · 2^level, 4 · 2^level). Raises ValueError for another shape or stage."""
        _check_stage(level, alpha, len(self.blocks))
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"this generator takes z {('B', self.latent_dim)}, got {tuple(z.shape)}")
        h = before = self.blocks[0](F.leaky_relu(self.dense(pixel_norm(z)[:, :, None, None]), 0.2).view(len(z), -1, 4, 4))
        for block in self.blocks[1 : level + 1]:
            before, h = h, block(grow(h))
        x = self.to_rgb[level](h)
        return x if level == 0 or alpha == 1 else torch.lerp(grow(self.to_rgb[level - 1](before)), x, alpha)


class ProgressiveDiscriminator(nn.Module):
    """Images (B, 3, s, s) -> logits (B,), no sigmoid applied; `minibatch_std` before the last block if `spread`.

    The generator's way back. Fade-in: (1 - alpha) from_rgb_{level-1}(down(x)) + alpha down(block_level(from_rgb_level(x)));
    down is the average of 2 x 2 pixels.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, spread: bool = True) -> None:
        super().__init__()
        self.spread = spread
        self.from_rgb = nn.ModuleList(nn.Sequential(EqualConv2d(3, width, 1), nn.LeakyReLU(0.2)) for width in channels)
        self.blocks = nn.ModuleList(Block(i, o, norm=False) for i, o in zip(channels[1:], channels, strict=False))
        self.last = nn.Sequential(EqualConv2d(channels[0] + spread, channels[0]), nn.LeakyReLU(0.2))
        self.head = EqualConv2d(16 * channels[0], 1, 1, gain=1.0)

    def forward(self, x: Tensor, level: int = LEVELS - 1, alpha: float = 1.0) -> Tensor:
        """x (B, 3, 4 · 2^level, 4 · 2^level) -> (B,). Raises ValueError for another shape or stage."""
        _check_stage(level, alpha, len(self.from_rgb))
        if x.shape[1:] != (3, 4 * 2**level, 4 * 2**level):
            raise ValueError(f"at level {level} D takes images {('B', 3, 4 * 2**level, 4 * 2**level)}, got {tuple(x.shape)}")
        h = self.from_rgb[level](x)
        for i in range(level, 0, -1):
            h = F.avg_pool2d(self.blocks[i - 1](h), 2)
            if i == level and alpha < 1:
                h = torch.lerp(self.from_rgb[level - 1](F.avg_pool2d(x, 2)), h, alpha)
        h = self.last(minibatch_std(h) if self.spread else h)
        return self.head(h.flatten(1)[:, :, None, None]).flatten()


class Given(nn.Module):
    """A network with its later arguments fixed, for code that calls net(x): Given(G, 2, 0.5)(z) is G(z, 2, 0.5)."""

    def __init__(self, net: nn.Module, *given: Any) -> None:
        super().__init__()
        self.net, self.given = net, given  # the parameters are the network's own

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, *self.given)


def _check_stage(level: int, alpha: float, levels: int) -> None:
    if not (level in range(levels) and 0 <= alpha <= 1):
        raise ValueError(f"level={level!r}, alpha={alpha!r}: expected a level from 0 to {levels - 1} and alpha from 0 to 1")
