"""One step of the adversarial game; which game it is, its loss lines say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

GameLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (D, x, fake) -> scalar, to be minimised


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Gradients pass through `net` and leave nothing in its parameters; afterwards each is trainable as it was before."""
    before = [(weight, weight.requires_grad) for weight in net.parameters()]
    net.requires_grad_(False)
    try:
        yield
    finally:
        for weight, trainable in before:
            weight.requires_grad_(trainable)


def gan_step(
    G: nn.Module,
    D: nn.Module,
    opt_G: Optimizer,
    opt_D: Optimizer,
    x: Tensor,
    sample_z: Callable[[], Tensor],
    *,
    d_loss: GameLoss,
    g_loss: GameLoss,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> tuple[Tensor, Tensor]:
    """One update of D, then one of G, on real x (B, …); sample_z() draws fresh noise for each of the two.

    d_loss, g_loss: take (D, x, fake) and return a scalar to be minimised, penalties included; g_loss's fakes carry the graph.
    backward: `accelerator.backward` under mixed precision or several processes. Returns both losses, detached; no `.item()`,
    which would wait for the GPU. D's step sends nothing into G, G's step leaves nothing in D. Goodfellow et al. (2014),
    algorithm 1 with k = 1.
    """
    with torch.no_grad():
        fake = G(sample_z())
    loss_D = d_loss(D, x, fake)
    opt_D.zero_grad()
    backward(loss_D)
    opt_D.step()

    with frozen(D):
        loss_G = g_loss(D, x, G(sample_z()))
        opt_G.zero_grad()
        backward(loss_G)
    opt_G.step()
    return loss_D.detach(), loss_G.detach()
