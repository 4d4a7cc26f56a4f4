"""The networks and losses of bench.toy_gans: S networks side by side, points x (S, B, 2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization

from genimg_lib import losses
from genimg_lib.networks.stacked import StackedLinear, stacked_mlp

OCTAVES = 3  # of the sines and cosines that a critic sees beside the coordinates
activation = partial(nn.LeakyReLU, 0.2)
GROUP = 8  # points whose spread the minibatch statistic sees
UNROLLED = 3  # steps of D that G looks ahead


class StackedSpectralNorm(nn.Module):
    """W / σ(W) for each of S weights (S, fan_in, fan_out); one step of power iteration at each use in training.

    Miyato et al. (2018), algorithm 1. `torch.nn.utils.parametrizations.spectral_norm` does it for one weight.
    """

    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("v", F.normalize(weight.detach().sum(1, keepdim=True).mT, dim=1))  # (S, fan_out, 1)
        self.update(weight.detach(), 15)

    @torch.no_grad()
    def update(self, weight: Tensor, steps: int = 1) -> Tensor:
        """Improve v by power iteration; returns u (S, fan_in, 1)."""
        for _ in range(steps):
            u = F.normalize(weight @ self.v, dim=1)
            self.v = F.normalize(weight.mT @ u, dim=1)
        return F.normalize(weight @ self.v, dim=1)

    def forward(self, weight: Tensor) -> Tensor:
        u = self.update(weight, int(self.training))
        return weight / (u.mT @ weight @ self.v)


class Critic(nn.Module):
    """x (S, B, 2) -> logits (S, B // pack); `heads` gives all outputs, (S, B // pack, outputs)."""

    def __init__(
        self,
        seeds: Sequence[int],
        width: int,
        *,
        pack: int = 1,
        deviation: bool = False,
        spectral: bool = False,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.pack, self.deviation = pack, deviation
        sizes = [2 * (1 + 2 * OCTAVES) * pack + deviation, width, width, width, outputs]
        self.net = stacked_mlp([10_000 + seed for seed in seeds], sizes, activation)
        if spectral:
            for layer in self.net:
                if isinstance(layer, StackedLinear):
                    register_parametrization(layer, "weight", StackedSpectralNorm(layer.weight))

    def heads(self, x: Tensor) -> Tensor:
        waves = (x[..., None] * torch.pi * 2.0 ** torch.arange(OCTAVES)).flatten(2)  # (S, B, 2 OCTAVES), in radians
        x = torch.cat([x, waves.sin(), waves.cos()], -1)
        x = x.unflatten(1, (-1, self.pack)).flatten(2)  # PacGAN: `pack` points side by side are one input
        if self.deviation:  # the points' standard deviation within a group, one number for all of them
            spread = x.unflatten(1, (-1, GROUP)).var(2, correction=0).add(1e-8).sqrt().mean(-1)  # (S, B / GROUP)
            x = torch.cat([x, spread.repeat_interleave(GROUP, 1)[..., None]], -1)
        return self.net(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x)[..., 0]


class Mixture(nn.Module):
    """K generators a seed, each for an equal share of the batch, in order: z (S, B, sizes[0]) -> (S, B, 2)."""

    def __init__(self, seeds: Sequence[int], sizes: Sequence[int], k: int) -> None:
        super().__init__()
        self.k, self.nets = k, stacked_mlp([100 * (seed + 1) + i for seed in seeds for i in range(k)], sizes, activation)

    def forward(self, z: Tensor) -> Tensor:
        split = z.unflatten(1, (self.k, -1)).flatten(0, 1)  # (S K, B / K, latent_dim)
        return self.nets(split).unflatten(0, (-1, self.k)).flatten(1, 2)


def logistic(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return losses.logistic_d_loss(real_logits=D(x), fake_logits=D(fake))


def nonsaturating(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return losses.nonsaturating_g_loss(D(fake))


def unrolled(D: Critic, x: Tensor, fake: Tensor, lr: float) -> Tensor:
    """Minus D's loss after UNROLLED steps of plain gradient descent on this batch, differentiated through them.

    lr: the size of those steps. The minimax loss, as in Metz et al. (2017), not the non-saturating one.
    """
    params = {name: value.detach().requires_grad_() for name, value in D.named_parameters()}

    def d_loss() -> Tensor:
        real, generated = (functional_call(D, params, (points,)) for points in (x, fake))
        return losses.logistic_d_loss(real_logits=real, fake_logits=generated)

    for _ in range(UNROLLED):
        slopes = torch.autograd.grad(len(x) * d_loss(), list(params.values()), create_graph=True)  # of the sum over seeds
        params = {name: value - lr * slope for (name, value), slope in zip(params.items(), slopes, strict=True)}
    return -d_loss()


def r1(D: Critic, x: Tensor, fake: Tensor, gamma: float) -> Tensor:
    return logistic(D, x, fake) + gamma / 2 * losses.zero_centred_penalty(D, x, batch_dims=2)


def relativistic_r1_r2(D: Critic, x: Tensor, fake: Tensor, gamma: float) -> Tensor:
    penalties = losses.zero_centred_penalty(D, x, batch_dims=2) + losses.zero_centred_penalty(D, fake, batch_dims=2)
    return losses.relativistic_d_loss(real_logits=D(x), fake_logits=D(fake)) + gamma / 2 * penalties


def relativistic(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return losses.relativistic_g_loss(real_logits=D(x), fake_logits=D(fake))


def wgan_gp(D: Critic, x: Tensor, fake: Tensor, gamma: float) -> Tensor:
    between = losses.interpolate(x, fake, batch_dims=2)
    penalty = losses.gradient_penalty(D, between, batch_dims=2)
    return losses.wasserstein_d_loss(real_logits=D(x), fake_logits=D(fake)) + gamma * penalty


def wasserstein(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return losses.wasserstein_g_loss(D(fake))


def hinge(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return losses.hinge_d_loss(real_logits=D(x), fake_logits=D(fake))


def hinge_g(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return losses.hinge_g_loss(D(fake))


def which_generator(D: Critic, fake: Tensor) -> Tensor:
    """Cross-entropy, nats, of D's guess at which of the K generators made a point: MGAN, Hoang et al. (2018)."""
    logits = D.heads(fake)[..., 1:]  # (S, B, K), the generators' shares of the batch in order
    k = logits.shape[-1]
    maker = torch.arange(k).repeat_interleave(logits.shape[1] // k).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), maker.flatten())


def mixture_d(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return logistic(D, x, fake) + which_generator(D, fake)


def mixture_g(D: Critic, x: Tensor, fake: Tensor) -> Tensor:
    return nonsaturating(D, x, fake) + which_generator(D, fake)
