"""The gradient penalties under bf16 autocast and in two processes: what a GPU run of a GAN leans on.

What two processes need of a GAN step, found here (gloo, DDP through accelerate):

- Several forward passes of D before one backward pass (real, fake, interpolated) are fine: `autograd.grad` inside a penalty
  does not touch DDP's hooks, which fire once, when the whole loss goes backward.
- `frozen(D)` on a DDP-wrapped D is fine: no hook of D fires in G's step, so no reduction waits for one, and
  `find_unused_parameters` stays off. A step whose D loss leaves out a parameter of D would need it.
- A penalty's gradient norm is one image's, and its mean is the mean over processes of equal shares. What couples a batch
  (BatchNorm, minibatch statistics) would differ, here as in any step.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genimg_lib import losses

SCRIPT = Path(__file__).with_name("two_processes_gan.py")
PENALTIES = {"gradient_penalty": losses.gradient_penalty, "zero_centred_penalty": losses.zero_centred_penalty}
each_penalty = pytest.mark.parametrize("name", PENALTIES)


def critics() -> dict[str, tuple[nn.Module, Tensor]]:
    """A dense and a convolutional critic, each with images, far enough from slope 1 that the penalty is no small difference."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(12, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Flatten(0))
    layers = [nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 16, 1), nn.Flatten(0)]
    return {"dense": (dense, torch.randn(16, 12)), "convolutional": (nn.Sequential(*layers), torch.rand(16, 1, 8, 8))}


def value_and_slopes(penalty, D: nn.Module, x: Tensor, autocast: bool) -> tuple[Tensor, list[Tensor]]:
    D.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = penalty(D, x)
    value.backward()
    return value.detach(), [weight.grad.clone() for weight in D.parameters() if weight.grad is not None]


@each_penalty
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_bf16_autocast_is_near_float32(name: str, kind: str) -> None:
    """bf16 keeps 8 bits, a relative step of 2^-8 = 0.4 %; a few roundings in a row stay within 1 % of the value and 2 % (in
    norm) of each parameter's gradient, which is float32, as the parameters are."""
    D, x = critics()[kind]
    exact, exact_slopes = value_and_slopes(PENALTIES[name], D, x, autocast=False)
    value, slopes = value_and_slopes(PENALTIES[name], D, x, autocast=True)
    assert value.isfinite() and value != exact, "autocast changed nothing: it was not on"
    assert value.item() == pytest.approx(exact.item(), rel=0.01)
    assert len(slopes) == len(exact_slopes) >= 2
    for slope, exact_slope in zip(slopes, exact_slopes, strict=True):
        assert slope.dtype == torch.float32 and slope.isfinite().all()
        assert (slope - exact_slope).norm() <= 0.02 * exact_slope.norm()


@each_penalty
def test_bf16_autocast_at_zero_gradient(name: str) -> None:
    """A constant D: the penalty is (0 - 1)² or 0, and its derivatives are finite."""
    D = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    nn.init.zeros_(D[0].weight)
    value, slopes = value_and_slopes(PENALTIES[name], D, torch.randn(4, 5), autocast=True)
    assert value.item() == {"gradient_penalty": 1.0, "zero_centred_penalty": 0.0}[name]
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.fixture(scope="module")
def one_process() -> dict[str, dict[str, Tensor]]:
    train = runpy.run_path(str(SCRIPT))["train"]
    return {game: train(game) for game in ("wgan-gp", "r1")}


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert set(ours) == set(theirs)
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.mark.parametrize("game", ["wgan-gp", "r1"])
def test_two_processes_play_as_one(tmp_path: Path, one_process: dict[str, dict[str, Tensor]], game: str) -> None:
    """Two processes with half of each batch end with the players of one process with all of it, to float32's rounding."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d"]
    launch += ["--rdzv-endpoint=127.0.0.1:0", str(SCRIPT), game, str(tmp_path / "two")]
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = [torch.load(tmp_path / f"two-{rank}.pt") for rank in (0, 1)]
    assert differences(*parts) == 0, "the two processes parted"
    assert differences(parts[0], one_process[game]) < 1e-5


@pytest.mark.parametrize("game", ["wgan-gp", "r1"])
@pytest.mark.parametrize("mistake", ["half the batch", "no penalty"])
def test_the_comparison_is_sharp(
    monkeypatch: pytest.MonkeyPatch, one_process: dict[str, dict[str, Tensor]], game: str, mistake: str
) -> None:
    """What one process does with its half alone (gradients not averaged), or without the penalty, is told apart."""
    if mistake == "no penalty":
        for name in PENALTIES:
            monkeypatch.setattr(losses, name, lambda D, x: torch.zeros(()))
    script = runpy.run_path(str(SCRIPT))
    wrong = script["train"](game, shares=2 if mistake == "half the batch" else 1)
    assert differences(wrong, one_process[game]) > 1e-3
