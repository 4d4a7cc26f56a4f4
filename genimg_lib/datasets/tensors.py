"""From bytes to model input, and batches by index: the data stay on one device, in one tensor."""

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from genimg_lib.datasets import ImageDataset


def to_unit(data: "ImageDataset | Tensor", levels: int = 256) -> Tensor:
    """Grey levels 0 .. levels - 1 as float32 in [0, 1]: divided by levels - 1.

    data: a data set (whose own `levels` is used), or uint8 images of any shape.
    Raises TypeError for another dtype, ValueError for a grey level out of range.
    """
    images, levels = (data, levels) if isinstance(data, Tensor) else (data.images, data.levels)
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: expected uint8 grey levels; floats in [0, 1] need no to_unit")
    if levels < 256 and images.numel() and int(images.max()) >= levels:
        raise ValueError(f"images reach {int(images.max())}: expected grey levels below levels={levels}")
    return images.float().div_(levels - 1)


def binarize(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A fresh draw of each pixel, 1 with probability x and 0 otherwise, of x's shape and dtype.

    x: floats in [0, 1]. Drawn on the generator's device, so that a CPU generator gives the same bits everywhere.
    Source: Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks".
    """
    if not x.is_cuda:  # there, looking at the values would make the CPU wait at every step
        check_unit_interval(x)
    device = generator.device if generator is not None else x.device
    return (torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device) < x).to(x.dtype)


def check_unit_interval(x: Tensor, name: str = "x") -> None:
    """Raise TypeError unless x is floating point, ValueError unless every value is in [0, 1]."""
    if not x.is_floating_point():
        raise TypeError(f"{name} is {x.dtype}: expected floats in [0, 1]; datasets.to_unit makes them from uint8 images")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty, shape {tuple(x.shape)}: expected at least one value in [0, 1]")
    low, high = (float(v) for v in x.aminmax())  # NaN if any value is
    if not (low >= 0 and high <= 1):
        what = "holds NaN" if low != low else f"spans [{low:.4g}, {high:.4g}]"
        hint = "; these look like grey levels: use datasets.to_unit" if high > 2 else ""
        raise ValueError(f"{name} {what}: expected values in [0, 1]{hint}")


def batches(
    *tensors: Tensor,
    batch_size: int,
    generator: torch.Generator | None = None,
    epochs: int | None = None,
    drop_last: bool = True,
) -> Iterator[Any]:
    """Yield tuples of rows gathered by index, or the rows themselves if there is one tensor.

    generator: shuffles anew each epoch (on its device); None keeps the order. epochs: passes over the data; None for ever.
    drop_last: leave out the last batch of an epoch if it is smaller than batch_size.
    Raises ValueError before the first batch: tensors of unequal length, batch_size out of range.
    """
    lengths = {len(t) for t in tensors}
    if len(lengths) != 1:
        raise ValueError(f"tensors have lengths {[len(t) for t in tensors]}: expected one or more of equal length")
    n = lengths.pop()
    if batch_size < 1 or n < (batch_size if drop_last else 1):
        raise ValueError(f"batch_size={batch_size} with {n} rows: expected 1 to {n}, or more rows")
    return _gather(tensors, n, batch_size, generator, epochs, drop_last)


def _gather(
    tensors: tuple[Tensor, ...],
    n: int,
    batch_size: int,
    generator: torch.Generator | None,
    epochs: int | None,
    drop_last: bool,
) -> Iterator[Any]:
    device = tensors[0].device
    for _ in count() if epochs is None else range(epochs):
        if generator is None:
            order = torch.arange(n, device=device)
        else:
            order = torch.randperm(n, generator=generator, device=generator.device).to(device)
        for start in range(0, n - batch_size + 1 if drop_last else n, batch_size):
            index = order[start : start + batch_size]
            rows = tuple(t[index] for t in tensors)
            yield rows if len(rows) > 1 else rows[0]
