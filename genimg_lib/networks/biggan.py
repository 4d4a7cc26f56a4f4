"""A class-conditional residual GAN with self-attention, in the manner of BigGAN: colour images of 16 or 32 pixels a side."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .conditional import _check_labels

PLANS = {16: (3, 2, 1), 32: (4, 3, 2, 1)}  # image side -> channels of the maps of side 4, 8, …, in units of `width`
ATTENTION = 8  # side of the map with self-attention


class SharedBatchNorm2d(nn.Module):
    """(1 + W_γ c) (h - μ) / √(σ² + ε) + W_β c: scale and shift are linear in a condition c that all layers share.

    μ, σ² per channel: the batch's in training, running means in evaluation. Brock, Donahue & Simonyan (2019), appendix B.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels, affine=False)
        self.gamma, self.beta = (nn.Linear(condition, channels, bias=False) for _ in range(2))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h (B, C, H, W), c (B, condition) -> (B, C, H, W)."""
        return (1 + self.gamma(c))[:, :, None, None] * self.normalise(h) + self.beta(c)[:, :, None, None]


class SelfAttention(nn.Module):
    r"""h + γ W_o Σ_j a_ij W_v h_j at each place i, a_i· = softmax_j(q_i · k_j), q = W_q h and k = W_k h; γ starts at 0.

    Each W is a 1 x 1 convolution without offset: q and k of C/8 channels, v of C/2. The
    scores are not divided by √(C/8). Zhang, Goodfellow, Metaxas & Odena (2019), equations 1 to 4 (there γ scales, W_o is W_v).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, channels // 8, 1, bias=False) for _ in range(2))
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def weights(self, h: Tensor) -> Tensor:
        """a (B, H·W, H·W): row i says where place i looks; rows sum to 1."""
        return torch.einsum("bci,bcj->bij", self.query(h).flatten(2), self.key(h).flatten(2)).softmax(-1)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, C, H, W) -> (B, C, H, W)."""
        mixed = torch.einsum("bij,bcj->bci", self.weights(h), self.value(h).flatten(2))
        return h + self.gamma * self.out(mixed.unflatten(2, h.shape[2:]))


class _Block(nn.Module):
    """Two convolutions and, if residual, a skip through 1 x 1."""

    def __init__(self, fan_in: int, fan_out: int, residual: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(fan_in, fan_out, 3, 1, 1), nn.Conv2d(fan_out, fan_out, 3, 1, 1)
        self.skip = nn.Conv2d(fan_in, fan_out, 1) if residual else None


class BlockUp(_Block):
    """Side doubled: up(h) through 1 x 1, plus conv(norm(conv(up(norm(h))))), ReLU after each norm."""

    def __init__(self, fan_in: int, fan_out: int, condition: int, residual: bool = True) -> None:
        super().__init__(fan_in, fan_out, residual)
        self.norm1, self.norm2 = SharedBatchNorm2d(fan_in, condition), SharedBatchNorm2d(fan_out, condition)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h (B, fan_in, H, W), c (B, condition) -> (B, fan_out, 2H, 2W)."""
        new = self.conv1(F.interpolate(self.norm1(h, c).relu(), scale_factor=2))
        new = self.conv2(self.norm2(new, c).relu())
        return new if self.skip is None else F.interpolate(self.skip(h), scale_factor=2) + new  # 1 x 1 and doubling commute


class BlockDown(_Block):
    """h through 1 x 1, plus conv(conv(h)), both averaged over 2 x 2 if `down`. ReLU before each conv, but not on an image."""

    def __init__(self, fan_in: int, fan_out: int, down: bool = True, residual: bool = True) -> None:
        super().__init__(fan_in, fan_out, residual)
        self.image, self.pool = fan_in == 3, nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """h (B, fan_in, H, W) -> (B, fan_out, H/2, W/2), or (B, fan_out, H, W)."""
        new = self.pool(self.conv2(self.conv1(h if self.image else h.relu()).relu()))
        return new if self.skip is None else self.skip(self.pool(h)) + new


class BigGenerator(nn.Module):
    """z (B, latent_dim) and labels y (B,) -> images (B, 3, size, size) in [-1, 1].

    z is cut into equal chunks: the first makes the 4 x 4 map; each block gets its own beside one embedding e_y that all share,
    c = [e_y, chunk]. latent_dim must be a multiple of 1 + the number of blocks. Weights orthogonal at the start.
    Brock, Donahue & Simonyan (2019), appendix B.
    """

    def __init__(
        self, classes: int = 10, latent_dim: int = 48, width: int = 16, size: int = 16, embed_dim: int = 16,
        attention: bool = True, residual: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        wide = [width * factor for factor in _plan(size)]
        self.classes, self.latent_dim, self.chunk = classes, latent_dim, latent_dim // len(wide)
        if latent_dim % len(wide):
            raise ValueError(f"latent_dim={latent_dim}: expected a multiple of {len(wide)}, for the first map and each block")
        self.embed, self.dense = nn.Embedding(classes, embed_dim), nn.Linear(self.chunk, 16 * wide[0])
        condition = embed_dim + self.chunk
        self.blocks = nn.ModuleList(BlockUp(*pair, condition, residual) for pair in itertools.pairwise(wide))
        self.attention = SelfAttention(wide[1]) if attention else nn.Identity()  # after the first block: side 8
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3, 1, 1), nn.Tanh())
        _orthogonal(self)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z (B, latent_dim), y (B,) -> (B, 3, size, size) in [-1, 1]. Raises ValueError for another shape or other labels."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"this generator takes z {('B', self.latent_dim)}, got {tuple(z.shape)}")
        _check_labels(y, len(z), self.classes)
        first, *chunks = z.split(self.chunk, 1)
        h = self.dense(first).unflatten(1, (-1, 4, 4))
        for block, chunk in zip(self.blocks, chunks, strict=True):
            h = block(h, torch.cat([self.embed(y), chunk], 1))
            h = self.attention(h) if h.shape[-1] == ATTENTION else h
        return self.last(h)


class BigDiscriminator(nn.Module):
    """Images x (B, 3, size, size) in [-1, 1], labels y (B,) -> logits ψ(φ(x)) + ⟨e_y, φ(x)⟩ (B,), no sigmoid applied.

    φ: residual blocks down to 4 x 4, one more that keeps the side, ReLU, sum over places; self-attention at side 8. spectral:
    torch's parametrization on every layer and on the table of the e_y (one power iteration at each forward pass in training).
    Brock, Donahue & Simonyan (2019), appendix B; the projection: Miyato & Koyama (2018), equation 11.
    """

    def __init__(
        self, classes: int = 10, width: int = 16, size: int = 16, attention: bool = True, residual: bool = True,
        spectral: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        wide = [3, *(width * factor for factor in reversed(_plan(size)))]
        self.classes, self.image_shape, last = classes, (3, size, size), len(wide) - 2
        pairs = enumerate(itertools.pairwise(wide))
        self.blocks = nn.ModuleList(BlockDown(*pair, depth < last, residual) for depth, pair in pairs)
        self.attention = SelfAttention(wide[last - 1]) if attention else nn.Identity()  # where the map's side is 8
        self.psi, self.embed = nn.Linear(wide[-1], 1), nn.Embedding(classes, wide[-1])
        _orthogonal(self)
        for layer in self.modules() if spectral else ():
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
                spectral_norm(layer)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, 3, size, size) in [-1, 1], y (B,) -> logits (B,). Raises ValueError for another shape or other labels."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"this discriminator takes images {('B', *self.image_shape)}, got {tuple(x.shape)}")
        _check_labels(y, len(x), self.classes)
        for block in self.blocks:
            x = block(x)
            x = self.attention(x) if x.shape[-1] == ATTENTION else x
        phi = x.relu().sum((2, 3))
        return self.psi(phi).squeeze(1) + (self.embed(y) * phi).sum(1)


def truncated_normal(shape: tuple[int, ...], threshold: float, generator: torch.Generator | None = None) -> Tensor:
    """Numbers ~ N(0, 1) given |z| <= threshold, each drawn again until it is inside (cut off, they would pile up there).

    Variance 1 - 2 t φ(t) / (2 Φ(t) - 1), below 1. Raises ValueError unless threshold > 0. Brock et al. (2019), section 3.1.
    """
    if not threshold > 0:
        raise ValueError(f"threshold={threshold!r}: expected a positive number (2 keeps 95 % of the draws, 0.5 keeps 38 %)")
    z = torch.randn(shape, generator=generator)
    while (outside := z.abs() > threshold).any():
        z[outside] = torch.randn(int(outside.sum()), generator=generator)
    return z


def _plan(size: int) -> tuple[int, ...]:
    if size not in PLANS:
        raise ValueError(f"size={size!r}: expected a side of 16 or 32 pixels; resize the images")
    return PLANS[size]


def _orthogonal(net: nn.Module) -> None:
    """Orthogonal weights of convolutions and dense layers, but N(0, 0.05²) in conditional BatchNorm; offsets 0. In place."""
    for layer in reversed(list(net.modules())):  # a layer after its parts
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, SharedBatchNorm2d):  # with few channels orthogonal weights would scale by 1 ± 1
            nn.init.normal_(layer.gamma.weight, 0.0, 0.05)
            nn.init.normal_(layer.beta.weight, 0.0, 0.05)
