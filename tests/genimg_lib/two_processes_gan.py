"""Run by test_penalties_distributed.py, alone and by torchrun on two processes: a few GAN updates with a penalty.

Arguments: `wgan-gp` or `r1`, and where to write the parameters, each process its own: PATH-rank.pt. Noise and mixing weights
are functions of the image, so that they are the same whichever process holds it, and the joint batch of one process is the
two halves of two.
"""

import sys

import torch
from torch import Tensor, nn

from genimg_lib import losses
from genimg_lib.training import make_accelerator
from genimg_lib.training_gan import gan_step

PIXELS, BATCH, STEPS = 6, 8, 5


def critic_gp(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.remainder(50 * x.sum(1, keepdim=True), 1.0)  # in place of losses.interpolate's own draw
    penalty = losses.gradient_penalty(D, torch.lerp(fake, x, alpha))
    return losses.wasserstein_d_loss(real_logits=D(x), fake_logits=D(fake)) + 10 * penalty


def critic_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.wasserstein_g_loss(D(fake))


def logistic_r1(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    logistic = losses.logistic_d_loss(real_logits=D(x), fake_logits=D(fake))
    return logistic + 5 * losses.zero_centred_penalty(D, x)


def nonsaturating_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.nonsaturating_g_loss(D(fake))


LINES = {
    "wgan-gp": {"d_loss": critic_gp, "g_loss": critic_g},
    "r1": {"d_loss": logistic_r1, "g_loss": nonsaturating_g},
}


def train(game: str, shares: int = 1) -> dict[str, Tensor]:
    """A few steps of the game on this process's share of each batch; the parameters of both players, by name.

    shares: of a process that plays alone, 2 leaves it half of each batch, as if nobody averaged the gradients.
    """
    torch.set_num_threads(1)
    accelerator = make_accelerator(cpu=True)
    torch.manual_seed(5)
    G = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, PIXELS))
    D = nn.Sequential(nn.Linear(PIXELS, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    images = torch.randn(STEPS, BATCH, PIXELS)
    opt_G, opt_D = (torch.optim.Adam(net.parameters(), 1e-2, betas=(0.0, 0.9), eps=1e-4) for net in (G, D))
    G, D, opt_G, opt_D = accelerator.prepare(G, D, opt_G, opt_D)
    share = BATCH // max(shares, accelerator.num_processes)
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    for x in images[:, mine]:
        z = torch.sin(7 * x[:, :2])
        gan_step(G, D, opt_G, opt_D, x, lambda z=z: z, **LINES[game], backward=accelerator.backward)
    players = {"G": accelerator.unwrap_model(G), "D": accelerator.unwrap_model(D)}
    return {f"{name}.{key}": value for name, net in players.items() for key, value in net.state_dict().items()}


if __name__ == "__main__":
    trained = train(sys.argv[1])
    torch.save(trained, f"{sys.argv[2]}-{torch.distributed.get_rank()}.pt")
