"""The step against autograd by hand and against itself on two processes; the loop's batches, log, resumption and refusals."""

import copy
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genimg_lib import checkpoints, training
from genimg_lib.networks import MLPVAE
from genimg_lib.training import Run, adam, batch_indices, make_accelerator, seed_everything, train, vae_step

TWO_PROCESSES = Path(__file__).with_name("two_processes.py")


@pytest.fixture
def tiny():
    seed_everything(0)
    model = MLPVAE((1, 4, 4), hidden=(8,), latent_dim=2)
    return model, adam(model.parameters(), lr=1e-2), make_accelerator(cpu=True)


def test_vae_step_is_adam_on_the_mean_negative_elbo(tiny):
    model, optimizer, accelerator = tiny
    x = torch.rand(5, 1, 4, 4)
    twin = copy.deepcopy(model)
    torch.manual_seed(7)
    logits, mu, logvar, _ = twin(x)
    p = torch.distributions.Bernoulli(logits=logits)
    nll = -(x * p.probs.log() + (1 - x) * (1 - p.probs).log()).flatten(1).sum(1)
    q = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    (nll + kl).mean().backward()
    by_hand = torch.optim.Adam(twin.parameters(), lr=1e-2, foreach=False, fused=False)
    by_hand.step()

    torch.manual_seed(7)
    terms = vae_step(model, optimizer, x, accelerator)
    torch.testing.assert_close(terms["loss"], (nll + kl).mean().detach())
    torch.testing.assert_close(terms["nll"], nll.mean().detach())
    torch.testing.assert_close(terms["kl"], kl.mean().detach())
    assert not any(value.requires_grad for value in terms.values())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name])


def test_vae_step_goes_back_through_the_accelerator(tiny):
    """Which scales the loss in half precision, and more."""

    class Doubling:
        def backward(self, loss):
            (2 * loss).backward()

    model, _, accelerator = tiny
    gradients = []
    for through in (accelerator, Doubling()):
        twin = copy.deepcopy(model)
        torch.manual_seed(1)
        vae_step(twin, adam(twin.parameters(), lr=0.1), torch.full((5, 1, 4, 4), 0.5), through)
        gradients.append([parameter.grad for parameter in twin.parameters()])
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(2 * once, twice)


def test_vae_step_forgets_the_last_gradient(tiny):
    model, optimizer, accelerator = tiny
    x = torch.rand(5, 1, 4, 4)
    vae_step(model, optimizer, x, accelerator)
    first = copy.deepcopy(model)
    torch.manual_seed(1)
    vae_step(model, optimizer, x, accelerator)
    torch.manual_seed(1)
    logits, mu, logvar, _ = first(x)
    loss = training.bernoulli_nll(logits=logits, x=x) + training.kl_diagonal_gaussian(mu, logvar)
    loss.mean().backward()
    for mine, fresh in zip(model.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, fresh.grad)


def test_two_processes_update_as_one(tmp_path, monkeypatch):
    """Two processes with half a batch each (gloo, DDP) end with the parameters of one with the whole batch."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d"]
    launch += ["--rdzv-endpoint=127.0.0.1:0", str(TWO_PROCESSES), str(tmp_path / "two")]
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.setattr(sys, "argv", [str(TWO_PROCESSES), str(tmp_path / "one")])
    runpy.run_path(str(TWO_PROCESSES), run_name="__main__")
    one, two = (checkpoints.load(checkpoints.latest(tmp_path / name), recipe="two-processes") for name in ("one", "two"))
    assert len(two["random"]) == 2 and len(one["random"]) == 1
    assert not torch.equal(two["random"][0]["torch"], two["random"][1]["torch"])
    for name, value in one["modules"]["model"].items():
        torch.testing.assert_close(two["modules"]["model"][name], value, rtol=1e-4, atol=1e-6)
    for mine, other in zip(two["progress"]["history"], one["progress"]["history"], strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


def test_every_epoch_is_a_permutation_without_its_rest():
    epochs = [torch.cat([batch_indices(10, 3, 3 * epoch + i, seed=1) for i in range(3)]) for epoch in range(3)]
    assert all(len(set(epoch.tolist())) == 9 and set(epoch.tolist()) <= set(range(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], torch.cat([batch_indices(10, 3, i, seed=2) for i in range(3)]))
    torch.testing.assert_close(batch_indices(10, 3, 4, seed=1), epochs[1][3:6])  # no memory of earlier calls


def test_log_is_the_mean_over_the_interval(tiny):
    model, optimizer, accelerator = tiny
    values = iter(range(7))
    run = Run("r", {"model": model}, {"adam": optimizer})
    seen: list[dict[str, float]] = []
    log = train(
        run, lambda x: {"value": torch.tensor(float(next(values)))}, torch.zeros(4, 1), steps=7, batch_size=2, seed=0,
        accelerator=accelerator, log_every=3, save_every=3, on_log=seen.append,
    )  # fmt: skip
    assert log == seen == [{"step": 3, "value": 1.0}, {"step": 6, "value": 4.0}, {"step": 7, "value": 6.0}]


def test_nan_stops_the_run_and_keeps_what_was_saved(tiny, tmp_path):
    model, optimizer, accelerator = tiny
    run = Run("r", {"model": model}, {"adam": optimizer})
    images = torch.rand(8, 1, 4, 4)

    def step_fn(x):
        if run.step == 13:
            with torch.no_grad():
                next(model.parameters()).mul_(float("nan"))
        return vae_step(model, optimizer, x, accelerator)

    with pytest.raises(FloatingPointError, match=r"no longer finite by step 15: .*nan.* saved before are intact"):
        train(run, step_fn, images, steps=40, batch_size=4, seed=0, accelerator=accelerator, log_every=5, save_every=5,
              directory=tmp_path)  # fmt: skip
    assert checkpoints.saved_steps(tmp_path) == [5, 10]
    again = Run("r", {"model": model}, {"adam": optimizer})
    again.restore(checkpoints.latest(tmp_path), accelerator)
    assert again.step == 10 and all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9}, "batch_size must be 1 to 8 images"),
        ({"batch_size": 0}, "batch_size must be 1 to 8 images"),
        ({"batch_size": 4, "save_every": 7, "log_every": 5}, r"save_every \(7\) must be a multiple of log_every \(5\)"),
    ],
)
def test_impossible_options(tiny, options, message):
    model, optimizer, accelerator = tiny
    run = Run("r", {"model": model}, {"adam": optimizer})
    with pytest.raises(ValueError, match=message):
        train(run, lambda x: {}, torch.zeros(8, 1), steps=1, seed=0, accelerator=accelerator, **options)


def test_seed_and_precision():
    import random

    import numpy as np

    draws = []
    for seed in (4, 4, 5):
        seed_everything(seed)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1] and all(a != b for a, b in zip(draws[0], draws[2], strict=True))
    with pytest.raises(ValueError, match=r"precision must be .* got 'half'"):
        make_accelerator("half")


def test_adam_is_fused():
    assert adam([torch.nn.Parameter(torch.zeros(2))], lr=0.1).defaults["fused"] is True
