"""Likelihoods of pixels that are whole numbers: their unit, and the noise that lets a density model them.

x = dequantize(data.images, levels=data.levels, generator=generator)  # grey levels + noise, on [0, levels)
bits_per_dimension(nats, dims=x[0].numel())  # of a density on that scale; on the unit scale also levels=data.levels
"""

import math
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def bits_per_dimension(nats: Number, *, dims: int, levels: int = 1) -> Number:
    r"""(nats / dims + ln levels) / ln 2: minus a log-likelihood, nats per image, in bits per dimension.

    nats: -log p summed over the image, a number or any shape; not averaged here. dims: channels x height x width.
    levels: the number K of grey levels if p is a density of pixels scaled to [0, 1); 1 (the default) if the likelihood is a
    probability of whole numbers, or a density on the scale [0, K), whose cells have volume 1.
    If p is a density of dequantised pixels the result is an upper bound, see `dequantize`.
    Raises ValueError if dims or levels is below 1.
    """
    if dims < 1 or levels < 1:
        raise ValueError(f"dims={dims}, levels={levels}: expected the number of pixels and of grey levels, both at least 1")
    return (nats / dims + math.log(levels)) / math.log(2)


def dequantize(images: Tensor, *, levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    r"""x + u, u uniform on [0, 1) for every pixel: float64 of the same shape, on the scale of the levels, [0, levels).

    E_u[log p(x + u)] <= log P(x), P(x) being p's mass on the cell of x, so the log-likelihood of a density at these points is
    a lower bound. For the unit scale divide by levels (not levels - 1), and tell `bits_per_dimension`.
    images: uint8 grey levels 0 .. levels - 1, any shape. The noise is drawn on the generator's device.
    Raises TypeError for another dtype, ValueError for a grey level out of range.
    Source: Uria et al. (2013); the bound: Theis et al. (2016), section 3.1.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: expected uint8 grey levels, before any rescaling")
    if images.numel() and int(images.max()) >= levels:
        raise ValueError(f"images reach {int(images.max())}: expected grey levels below levels={levels}")
    device = generator.device if generator is not None else images.device
    noise = torch.rand(images.shape, generator=generator, device=device, dtype=torch.float64)
    return images.double() + noise.to(images.device)
