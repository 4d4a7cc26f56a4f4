"""What the speed benchmark times is what it says: contenders learn, the products are those of a step, ratios are by round."""

import time

import pytest
import torch

from bench import vae_speed
from bench.vae_speed import BATCH, summary
from genimg_lib import training


@pytest.fixture
def images():
    return (torch.rand(300, 1, 28, 28, generator=torch.Generator().manual_seed(0)) > 0.7).float()


@pytest.mark.parametrize("name", ["library", "bare", "usual"])
def test_contenders_train_on_whole_batches(name, images, monkeypatch):
    losses: list[float] = []
    original = torch.Tensor.backward

    def backward(loss, *args, **kwargs):
        losses.append(loss.item() / (BATCH if name == "usual" else 1))  # the example sums over the batch
        return original(loss, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    getattr(vae_speed, name)(images)(12)
    assert len(losses) == 12
    assert 480 < losses[0] < 600 and losses[-1] < losses[0] - 20  # about 784 log 2 at first


def test_products_are_those_of_one_step(images, monkeypatch):
    """As many multiplications as a real step has: no input gradient for the first layer."""
    from torch.utils.flop_counter import FlopCounterMode

    take = vae_speed.products(images)
    with FlopCounterMode(display=False) as counted:
        take(1)
    with FlopCounterMode(display=False) as real:
        vae_speed.bare(images)(1)
    assert counted.get_total_flops() == real.get_total_flops() == round(1e9 * vae_speed.GFLOP)


def test_measure_alternates_and_summary_takes_ratios_by_round(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def contender(name, seconds):
        def take(steps):
            order.append(name)
            clock[0] += seconds * steps

        return take

    rates = vae_speed.measure({"library": contender("library", 0.1), "bare": contender("bare", 0.2)}, rounds=3, steps=4)
    assert order == ["library", "bare", "library", "bare", "bare", "library", "library", "bare"]
    assert rates["library"] == pytest.approx([10] * 3)
    assert summary({"library": [1.0, 4.0, 9.0], "bare": [1.0, 2.0, 3.0]})["ratios"]["library / bare"]["median"] == 2.0


def test_shares_add_up(images):
    shares = vae_speed.where_time_goes(vae_speed.library(images), 3)
    assert sum(shares.values()) == pytest.approx(1, abs=0.01) and all(share >= 0 for share in shares.values())
    assert shares["matrix products"] > 0.1 and shares["Adam"] > 0 and shares["random numbers"] > 0 and shares["gather"] > 0
    assert training.vae_step is vae_speed.vae_step
