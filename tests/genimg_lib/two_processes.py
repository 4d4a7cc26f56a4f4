"""Run by test_training.py, alone and by torchrun on two processes: a few VAE updates whose noise is a function of the image."""

import sys

import torch

from genimg_lib.networks import MLPVAE
from genimg_lib.training import Run, adam, make_accelerator, seed_everything, train, vae_step


class NoiseFromImage(MLPVAE):
    """z = mu + exp(logvar / 2) eps(x): the same noise for an image, whichever process holds it."""

    def forward(self, x, generator=None):
        mu, logvar = self.encode(x)
        eps = torch.sin(100 * x.flatten(1)[:, : self.latent_dim])
        z = mu + torch.exp(0.5 * logvar) * eps
        return self.decode(z), mu, logvar, z


torch.set_num_threads(1)
accelerator = make_accelerator(cpu=True)
seed_everything(3)
images = torch.rand(32, 1, 4, 4)
bare = NoiseFromImage((1, 4, 4), hidden=(8,), latent_dim=3)
model, optimizer = accelerator.prepare(bare, adam(bare.parameters(), lr=1e-2))
torch.manual_seed(accelerator.process_index)  # each process has noise of its own
run = Run("two-processes", {"model": model}, {"adam": optimizer})
train(
    run, lambda x: vae_step(model, optimizer, x, accelerator), images, steps=12, batch_size=8, seed=0,
    accelerator=accelerator, log_every=4, save_every=4, directory=sys.argv[1],
)  # fmt: skip
