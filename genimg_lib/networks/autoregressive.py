"""Masked convolutions, and a PixelCNN without a blind spot: exact likelihoods of images or codes of K symbols a place."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedConv2d(nn.Conv2d):
    """A convolution of odd kernel that sees, of the raster order, the places before its centre ("A") or the centre too ("B").

    Padded with zeros to keep (H, W). Type A belongs to the first layer, B to all others. A stack of them never looks at a later
    pixel, but misses some earlier ones to the upper right, its blind spot. van den Oord, Kalchbrenner & Kavukcuoglu (2016).
    """

    def __init__(self, mask_type: str, in_channels: int, out_channels: int, kernel_size: int) -> None:
        if mask_type not in ("A", "B") or kernel_size % 2 == 0:
            raise ValueError(f"mask_type={mask_type!r}, kernel_size={kernel_size}: expected 'A' or 'B' and an odd number")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.mask: Tensor
        seen = torch.arange(kernel_size**2) < kernel_size**2 // 2 + (mask_type == "B")
        self.register_buffer("mask", seen.view(kernel_size, kernel_size).to(self.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def gated(a: Tensor) -> Tensor:
    """tanh(a_1) σ(a_2), a (B, 2C, H, W) cut into two halves: (B, C, H, W). van den Oord et al. (2016), equation 2."""
    value, gate = a.chunk(2, 1)
    return torch.tanh(value) * torch.sigmoid(gate)


class _Layer(nn.Module):
    """One layer of two stacks: v at (r, c) knows only the rows above r; h knows also what is left of c in row r.

    first: takes one-hot symbols (B, K, H, W), and leaves out row r and column c themselves. size: how far back it looks.
    """

    def __init__(self, inputs: int, channels: int, size: int, first: bool) -> None:
        super().__init__()
        self.size, self.first = size, first
        self.down = nn.Conv2d(inputs, 2 * channels, (size + (not first), 2 * size + 1))
        self.right = nn.Conv2d(inputs, 2 * channels, (1, size + (not first)))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def above(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The vertical stack: what it tells the horizontal one, (B, 2C, H, W), and the next v, (B, C, H, W)."""
        n = self.size
        a = self.down(F.pad(v, (n, n, n, 0)))[:, :, : v.shape[2]]
        return self.across(a), gated(a)

    def along(self, h: Tensor, told: Tensor) -> Tensor:
        """The horizontal stack: the next h, (B, C, H, W); row for row on its own."""
        new = self.out(gated(self.right(F.pad(h, (self.size, 0, 0, 0)))[..., : h.shape[3]] + told))
        return new if self.first else h + new


class PixelCNN(nn.Module):
    """Logits of every symbol given all earlier ones in raster order, in one pass.

    levels: the number K of symbols, 2 for black and white; channels: C of each stack; layers: with 3-wide kernels, after a
    first one that looks `reach` rows up and columns to either side. The gated form of van den Oord et al. (2016, PixelCNN
    decoders): a vertical and a horizontal stack, which together leave no blind spot within the reach.
    """

    def __init__(self, levels: int = 2, channels: int = 16, layers: int = 5, reach: int = 5) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels={levels}: expected at least 2 symbols")
        self.levels, self.rows = levels, reach + layers  # rows up that a logit depends on
        first = _Layer(levels, channels, reach, first=True)
        self.layers = nn.ModuleList([first, *(_Layer(channels, channels, 1, first=False) for _ in range(layers))])
        self.head = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.ReLU(), nn.Conv2d(2 * channels, levels, 1))

    def one_hot(self, x: Tensor) -> Tensor:
        """x (B, H, W), whole numbers 0..K-1 -> (B, K, H, W) floats. Raises TypeError or ValueError for anything else."""
        if x.is_floating_point() or x.dim() != 3:
            raise TypeError(f"x is {x.dtype}, {tuple(x.shape)}: expected whole numbers (B, H, W), images[:, 0].long() say")
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.levels:
            raise ValueError(f"x spans {int(x.min())}..{int(x.max())}: expected symbols 0..{self.levels - 1}")
        return F.one_hot(x.long(), self.levels).movedim(-1, 1).to(next(self.parameters()).dtype)

    def above(self, one_hot: Tensor) -> list[Tensor]:
        """What each layer's vertical stack tells its horizontal one."""
        told, v = [], one_hot
        for layer in cast(list[_Layer], self.layers):
            a, v = layer.above(v)
            told.append(a)
        return told

    def along(self, one_hot: Tensor, told: list[Tensor]) -> Tensor:
        """Logits (B, K, H, W) from the horizontal stack."""
        h = one_hot
        for layer, a in zip(cast(list[_Layer], self.layers), told, strict=True):
            h = layer.along(h, a)
        return self.head(h)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, W), whole numbers -> logits (B, K, H, W)."""
        one_hot = self.one_hot(x)
        return self.along(one_hot, self.above(one_hot))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact: summed over places, nats per image. x (B, H, W) -> (B,)."""
        return -F.cross_entropy(self(x), x.long(), reduction="none").sum((1, 2))

    @torch.no_grad()
    def sample(self, x: Tensor, start: int = 0, generator: torch.Generator | None = None) -> Tensor:
        """Draw the places from number `start` on, one after the other; x (B, H, W) gives those before, and the shape.

        The vertical stack runs once a row, the horizontal one once a place. The noise is drawn on the generator's device.
        """
        x, device = x.clone(), x.device if generator is None else generator.device
        for place in range(start, x[0].numel()):
            r, c = divmod(place, x.shape[2])
            if c == 0 or place == start:
                told = [a[:, :, -1:] for a in self.above(self.one_hot(x[:, max(0, r - self.rows) : r + 1]))]
            logits = self.along(self.one_hot(x[:, r : r + 1, : c + 1]), [a[..., : c + 1] for a in told])[..., 0, -1]  # (B, K)
            uniform = torch.rand(logits.shape, generator=generator, device=device, dtype=torch.float64).to(x.device)
            x[:, r, c] = (logits - torch.log(-torch.log(uniform))).argmax(1)  # Gumbel noise: a draw from the softmax
        return x
