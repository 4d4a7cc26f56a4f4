"""The row recurrence is causal and complete, a distribution on a small space; a run resumes, scores and describes itself."""

from itertools import product

import pytest
import torch

import bench.binarised_mnist as bench
from bench.iwae_mnist import binarized, flat
from genimg_lib import datasets

TINY = bench.Config(steps=4, batch_size=5, state=6, features=3, reach=2, width=4, validation=10)


@pytest.fixture
def small(monkeypatch):
    """A model of images of 3 x 3 pixels."""
    monkeypatch.setattr(bench, "SIDE", 3)
    torch.manual_seed(0)
    model = bench.RowRecurrence(TINY, torch.rand(9)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        model.left.mul_(10)
    return model


def all_images():
    return torch.tensor(list(product((0.0, 1.0), repeat=9)), dtype=torch.float64)


def test_probabilities_of_all_images_sum_to_one(small):
    with torch.no_grad():
        assert (-bench.nll(small, all_images())).exp().sum().item() == pytest.approx(1, abs=1e-12)
        small.mask.copy_(torch.ones_like(small.mask))  # each pixel sees its whole row
        assert abs((-bench.nll(small, all_images())).exp().sum().item() - 1) > 0.01


def test_every_logit_sees_all_earlier_pixels_and_no_other():
    torch.manual_seed(0)
    model = bench.RowRecurrence(bench.Config(state=32), torch.rand(784))
    x = (torch.rand(1, 784) < 0.5).float().requires_grad_()
    for i in (0, 1, 27, 28, 29, 400, 783):
        gradient = torch.autograd.grad(model(x)[0, i], x)[0][0]
        assert (gradient[i:] == 0).all() and (gradient[:i] != 0).all()


@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, 0), (2, -1), (1, 2)])
def test_shifted(down, right):
    x = torch.rand(2, 4, 5, 3)
    y = bench.shifted(x, down, right)
    for r, c in product(range(4), range(5)):
        inside = r - down >= 0 and 0 <= c - right < 5
        assert torch.equal(y[:, r, c], x[:, r - down, c - right] if inside else torch.zeros(2, 3))


@pytest.fixture
def few_images(monkeypatch, tmp_path):
    images = torch.randint(0, 256, (40, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = datasets.ImageDataset(images, torch.zeros(40).long(), tuple("0123456789"), "mnist")
    monkeypatch.setattr(datasets, "load", lambda name, **_: data)
    monkeypatch.setattr(bench, "WORK", tmp_path)
    return images


def test_result_is_the_mean_over_the_test_images_of_the_averaged_model(few_images):
    result = bench.result(TINY)
    model = bench.fit(TINY)[0]  # found, not trained again
    x = binarized(flat(few_images), torch.Generator().manual_seed(1_000))
    logits = model(x).double()
    expected = -torch.distributions.Bernoulli(logits=logits).log_prob(x.double()).sum(1)
    assert result["test_nll_nats"] == pytest.approx(expected.mean().item(), abs=1e-3)
    assert result["standard_error_over_images"] == pytest.approx(expected.std().item() / 40**0.5, abs=1e-3)
    assert result["gap_nats"] == pytest.approx(result["test_nll_nats"] - 81.30, abs=2e-3)
    assert result["provenance"]["failed"] is None and result["provenance"]["steps"] == 4


def test_a_resumed_run_is_the_run(few_images, tmp_path, monkeypatch):
    """200 updates, a checkpoint, and two more: the same as 202 at once."""
    config = bench.Config(steps=202, batch_size=2, state=4, features=2, reach=1, width=2, validation=10)
    whole = bench.fit(config)[0].state_dict()
    (tmp_path / config.name / "step-000000202.safetensors").unlink()
    resumed, run, _ = bench.fit(config)
    assert run.step == 202
    assert all(torch.equal(value, whole[name]) for name, value in resumed.state_dict().items())


def test_unknown_arguments():
    with pytest.raises(SystemExit, match="expected nothing or --train"):
        bench.main(["50"])
