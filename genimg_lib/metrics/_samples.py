"""What every metric asks of its samples."""

import torch
from torch import Tensor


def checked(*samples: Tensor, names: tuple[str, ...], at_least: int) -> list[Tensor]:
    """The samples (N, D) as float64. ValueError: other shapes, unlike D, fewer than at_least rows, NaN or infinity."""
    for x, name in zip(samples, names, strict=True):
        if x.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: expected (N samples, D features); flatten images first")
        if x.shape[1] != samples[0].shape[1]:
            raise ValueError(f"{name} has {x.shape[1]} features, {names[0]} has {samples[0].shape[1]}: expected as many")
        if len(x) < at_least:
            raise ValueError(f"{name} has {len(x)} samples: expected at least {at_least} for {x.shape[1]} features")
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinity: expected finite numbers; look for the step that made them")
    return [x.double() for x in samples]
