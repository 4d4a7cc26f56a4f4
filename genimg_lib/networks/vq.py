"""Discrete latents: nearest codebook entries, and a small convolutional auto-encoder around them (VQ-VAE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def nearest_code(h: Tensor, codebook: Tensor) -> Tensor:
    """argmin_k ‖h - e_k‖², the index of the nearest entry; the first one if several are.

    h: (…, D) encoder outputs; codebook: (K, D). Returns whole numbers 0..K-1 of shape (…). Raises ValueError for two D.
    van den Oord, Vinyals & Kavukcuoglu (2017), equation 1.
    """
    if h.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"h has {h.shape[-1]} dimensions, the codebook {codebook.shape[-1]}: expected (…, D) and (K, D)")
    distances = codebook.square().sum(-1) - 2 * h @ codebook.T  # (…, K) ‖h - e_k‖², but for ‖h‖², the same for all k
    return distances.argmin(-1)


def straight_through(h: Tensor, e: Tensor) -> Tensor:
    """The value of e; backwards, the gradient goes to h unchanged and to e not at all. h, e: one shape."""
    return h + (e - h).detach()


def vq_terms(h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """‖sg(h) - e‖², which moves the codebook only, and ‖h - sg(e)‖², which moves the encoder only: two (B,).

    h, e: (B, …, D) encoder outputs and their entries. Each is summed over positions and dimensions; the two are equal in
    value. The second, the commitment, is weighted by beta. van den Oord et al. (2017), equation 3.
    """
    return (h.detach() - e).square().flatten(1).sum(1), (h - e.detach()).square().flatten(1).sum(1)


@torch.no_grad()
def ema_update(codebook: Tensor, counts: Tensor, sums: Tensor, h: Tensor, indices: Tensor, decay: float = 0.99) -> None:
    """Each entry becomes the running mean of the outputs assigned to it, in place; an entry that was never used stays.

    counts_k <- γ counts_k + (1 - γ) n_k; sums_k <- γ sums_k + (1 - γ) Σ h; e_k <- sums_k / counts_k, with γ = decay.
    codebook, sums: (K, D); counts: (K,); h: (…, D); indices: (…). van den Oord et al. (2017), appendix A.1.
    """
    one_hot = F.one_hot(indices.flatten(), len(codebook)).to(h.dtype)  # (M, K)
    counts.mul_(decay).add_(one_hot.sum(0), alpha=1 - decay)
    sums.mul_(decay).add_(one_hot.T @ h.flatten(0, -2), alpha=1 - decay)
    codebook.copy_(torch.where(counts[:, None] > 1e-5, sums / counts.clamp(min=1e-5)[:, None], codebook))


@torch.no_grad()
def revive(codebook: Tensor, counts: Tensor, sums: Tensor, h: Tensor, least: float = 1.0) -> None:
    """Entries with a running count below `least` move, in place, to outputs drawn from h (…, D), with the count 2 · least."""
    dead, outputs = counts < least, h.flatten(0, -2)
    drawn = outputs[torch.randint(len(outputs), (len(counts),), device=h.device)]
    codebook[dead], sums[dead], counts[dead] = drawn[dead], 2 * least * drawn[dead], 2 * least


def perplexity(indices: Tensor, codes: int) -> Tensor:
    """exp of the entropy of the pooled frequencies of the codes: between 1 and `codes`. indices: whole numbers, any shape."""
    frequencies = torch.bincount(indices.flatten(), minlength=codes).double() / indices.numel()
    return torch.special.entr(frequencies).sum().exp()


class VQVAE(nn.Module):
    """x -> h -> nearest entries -> Bernoulli logits. Images (C, H, W), codes (H/4, W/4), each one of K entries in R^D.

    width: channels of the outer layers, twice as many inside. The prior over codes is not part of this network.
    """

    def __init__(
        self, image_shape: tuple[int, int, int] = (1, 28, 28), codes: int = 32, code_dim: int = 16, width: int = 32
    ) -> None:
        super().__init__()
        channels, height, side = image_shape
        if height % 4 or side % 4:
            raise ValueError(f"image_shape is {tuple(image_shape)}: height and width must be multiples of 4")
        self.counts: Tensor
        self.sums: Tensor
        self.image_shape, self.code_shape, self.codes = tuple(image_shape), (height // 4, side // 4), codes
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(2 * width, code_dim, 1),
        )  # fmt: skip
        self.codebook = nn.Parameter(0.1 * torch.randn(codes, code_dim))  # (K, D)
        self.register_buffer("counts", torch.ones(codes))  # the running uses of each entry, and sums of outputs
        self.register_buffer("sums", self.codebook.detach().clone())
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, 2 * width, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
        )  # fmt: skip

    def encode(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> h (B, H/4, W/4, D), not yet quantised. Raises ValueError for images of another shape."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"this VQ-VAE takes images {('B', *self.image_shape)}, got {tuple(x.shape)}")
        return self.encoder(x).movedim(1, -1)

    def indices(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the image's codes (B, H/4, W/4), whole numbers 0..K-1."""
        return nearest_code(self.encode(x), self.codebook)

    def decode(self, e: Tensor) -> Tensor:
        """e (B, H/4, W/4, D) -> logits (B, C, H, W)."""
        return self.decoder(e.movedim(-1, 1))

    def decode_indices(self, indices: Tensor) -> Tensor:
        """indices (B, H/4, W/4), from a prior say -> logits (B, C, H, W)."""
        return self.decode(self.codebook[indices])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, H, W) -> logits (B, C, H, W), h and e (B, H/4, W/4, D), indices (B, H/4, W/4)."""
        h = self.encode(x)
        indices = nearest_code(h, self.codebook)
        e = self.codebook[indices]
        return self.decode(straight_through(h, e)), h, e, indices
