"""The recipes of chapter 15 learn and score; the shipped weights have the scores they claim."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from genimg_lib import datasets, recipes, weights
from genimg_lib.recipes.autoregressive import likelihood_step

TINY = {
    "pixelcnn-glyphs": recipes.PixelCNNGlyphs(steps=30, batch_size=8, lr=1e-2, channels=4, layers=1, reach=2),
    "vqprior-glyphs": recipes.VQPriorGlyphs(steps=30, batch_size=8, lr=1e-2, channels=4, layers=1, reach=1),
}


@pytest.fixture
def few_glyphs(monkeypatch):
    """Every data set is 40 glyphs."""
    few = {split: datasets.load("glyphs", n=40, split=split) for split in ("train", "test")}
    monkeypatch.setattr(datasets, "load", lambda name, **options: few[options.get("split", "train")])


@pytest.mark.parametrize(("name", "key"), [("pixelcnn-glyphs", "nll_nats"), ("vqprior-glyphs", "codes_nats")])
def test_recipe_learns_and_scores(name, key, few_glyphs, tmp_path):
    recipe = TINY[name]
    path = recipe.run(tmp_path)
    model = recipe.model()
    untrained = recipe.score(model)
    model.load_state_dict(load_file(path))
    score = recipe.score(model)
    assert score == json.loads((tmp_path / f"{name}.json").read_text())["score"]
    assert score[key] < 0.9 * untrained[key]


def test_step_ascends_the_likelihood():
    """One step of plain gradient descent is minus lr times the gradient of the mean of -log p."""
    torch.manual_seed(0)
    model = TINY["pixelcnn-glyphs"].model().double()
    x = torch.randint(0, 2, (4, 6, 6))
    nll = torch.nn.functional.cross_entropy(model(x), x, reduction="sum") / 4
    gradient = torch.autograd.grad(nll, list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert norm < 30  # not clipped
    accelerator = type("Plain", (), {"backward": staticmethod(lambda loss: loss.backward())})
    loss = likelihood_step(model, model.log_prob, torch.optim.SGD(model.parameters(), 0.1), x, accelerator)["loss"]
    torch.testing.assert_close(loss, nll.detach())
    for p, old, g in zip(model.parameters(), before, gradient, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * g)


@pytest.mark.parametrize("name", ["pixelcnn-glyphs", "vqprior-glyphs"])
def test_shipped_weights_have_the_score_they_claim(name):
    block = weights.provenance(name)
    recipe = recipes.find(name)(**block["recipe"])
    assert recipe == recipes.find(name)()  # made by the recipe as it stands
    score = recipe.score(weights.load(name, recipe.model()))
    for key, value in block["score"].items():
        assert score[key] == (pytest.approx(value, abs=0.02) if isinstance(value, float) else value)


def test_shipped_prior_is_better_than_a_uniform_one_and_the_pixels_than_the_vae():
    prior, pixels, vae = (weights.provenance(name)["score"] for name in ("vqprior-glyphs", "pixelcnn-glyphs", "vae-glyphs"))
    assert prior["uniform_nats"] == pytest.approx(49 * math.log(32), abs=1e-3)
    assert prior["codes_nats"] < 0.6 * prior["uniform_nats"]
    assert pixels["nll_nats"] < vae["negative_elbo_nats"]
