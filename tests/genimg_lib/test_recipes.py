"""Recipes run, resume, write weights with their provenance, and say what is wrong; the shipped VAE has the score it claims."""

import dataclasses
import json
import math

import pytest
import torch

from genimg_lib import datasets, recipes, weights
from genimg_lib.checkpoints import CheckpointError
from genimg_lib.networks import MLPVAE

TINY = recipes.VAEGlyphs(steps=6, batch_size=8, hidden=(4,), latent_dim=2)


@pytest.fixture
def few_glyphs(monkeypatch):
    """Every data set is 40 glyphs."""
    few = {split: datasets.load("glyphs", n=40, split=split) for split in ("train", "test")}
    monkeypatch.setattr(datasets, "load", lambda name, **options: few[options.get("split", "train")])


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_recipes_are_frozen_and_name_themselves(name):
    recipe = recipes.find(name)()
    assert recipe.name == name and recipe.command() == f"genimg train {name}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.steps = 1
    assert all(recipe.data()[key] for key in ("name", "options"))


def test_command_names_what_differs():
    assert recipes.VAEGlyphs(steps=5, hidden=(9, 8)).command() == "genimg train vae-glyphs --steps 5 --hidden 9 8"


def test_unknown_recipe():
    with pytest.raises(ValueError, match="no recipe is called 'vae-glyph': did you mean 'vae-glyphs'"):
        recipes.find("vae-glyph")


def test_run_writes_weights_that_load_with_their_score(few_glyphs, tmp_path):
    path = TINY.run(tmp_path)
    block = json.loads((tmp_path / "vae-glyphs.json").read_text())
    assert block["steps"] == 6 and block["recipe"]["hidden"] == [4] and block["seconds"] >= 0
    assert block["command"] == "genimg train vae-glyphs --steps 6 --batch-size 8 --hidden 4 --latent-dim 2"
    from safetensors.torch import load_file

    model = TINY.model()
    model.load_state_dict(load_file(path))
    assert TINY.score(model) == block["score"]
    assert TINY.score(TINY.model()) != block["score"]


def test_resume_only_when_asked_and_only_the_same(few_glyphs, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume: no checkpoint in"):
        TINY.run(tmp_path, resume=True)
    first = TINY.run(tmp_path).read_bytes()
    with pytest.raises(CheckpointError, match="is there already: add --resume"):
        TINY.run(tmp_path)
    assert TINY.run(tmp_path, resume=True).read_bytes() == first
    with pytest.raises(CheckpointError, match=r"belongs to 'VAEGlyphs\(steps=6.*expected 'VAEGlyphs\(steps=7"):
        dataclasses.replace(TINY, steps=7).run(tmp_path, resume=True)


def test_step_size_falls_to_zero(few_glyphs, tmp_path, monkeypatch):
    seen = []

    def spy(model, optimizer, x, accelerator):
        assert set(x.unique().tolist()) <= {0.0, 1.0}
        seen.append(optimizer.param_groups[0]["lr"])
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(recipes.vae, "vae_step", spy)
    dataclasses.replace(TINY, lr=0.5).fit(tmp_path)
    assert seen == pytest.approx([0.5, 0.5, 0.5, 0.5, 1 / 3, 1 / 6])


def test_iwae_recipe_learns_and_scores(few_glyphs, tmp_path):
    tiny = recipes.IWAEMnist(steps=25, k=3, samples=7, batch_size=20, test_images=5)
    model, _ = tiny.fit(tmp_path)
    score = tiny.score(model.eval())
    untrained = tiny.score(recipes.ImportanceWeights(MLPVAE(hidden=(200, 200), latent_dim=50, activation=torch.nn.Tanh), 3))
    assert score["negative_log_likelihood_nats"] < 0.8 * untrained["negative_log_likelihood_nats"]
    assert "of -log mean of 9 weights" in score["how"]


def test_importance_weights_average_to_the_evidence():
    """With a decoder that ignores z the evidence is a plain Bernoulli, whatever the posterior."""
    vae = MLPVAE((1, 1, 4), hidden=(3,), latent_dim=2)
    with torch.no_grad():
        vae.decoder[0].weight.zero_()  # the decoder ignores z
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0]]).view(1, 1, 1, 4)
    exact = torch.distributions.Bernoulli(logits=vae.decode(torch.zeros(1, 2))).log_prob(x).sum()
    torch.manual_seed(0)
    log_w = recipes.ImportanceWeights(vae, 40_000)(x).squeeze(1)
    estimate = log_w.logsumexp(0) - math.log(len(log_w))
    error = (log_w - exact).exp().std() / len(log_w) ** 0.5
    assert error < 0.02 and (estimate - exact).abs() < 5 * error


def test_shipped_vae_has_the_score_it_claims():
    block = weights.provenance("vae-glyphs")
    recipe = recipes.VAEGlyphs(**{**block["recipe"], "hidden": tuple(block["recipe"]["hidden"])})
    assert recipe == recipes.VAEGlyphs()  # made by the recipe as it stands
    score = recipe.score(weights.load("vae-glyphs", recipe.model()))
    for key, value in block["score"].items():
        assert score[key] == (pytest.approx(value, abs=0.02) if isinstance(value, float) else value)
    assert score["negative_elbo_nats"] < score["negative_elbo_new_fonts_nats"] < 150


def test_vqvae_recipe_learns_keeps_its_codebook_alive_and_scores(few_glyphs, tmp_path):
    tiny = recipes.VQVAEGlyphs(steps=40, batch_size=8, lr=1e-2, codes=6, code_dim=3, width=8)
    path = tiny.run(tmp_path)
    from safetensors.torch import load_file

    model = tiny.model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    untrained = tiny.score(model)
    model.load_state_dict(load_file(path))
    score = tiny.score(model)
    assert score == json.loads((tmp_path / "vqvae-glyphs.json").read_text())["score"]
    assert score["reconstruction_nats"] < 0.6 * untrained["reconstruction_nats"]
    assert score["code_rate_uniform_nats"] == pytest.approx(49 * math.log(6), abs=1e-3)
    assert not torch.equal(start["codebook"], model.codebook) and score["perplexity"] > 1.5


def test_shipped_vqvae_has_the_score_it_claims():
    block = weights.provenance("vqvae-glyphs")
    recipe = recipes.VQVAEGlyphs(**block["recipe"])
    assert recipe == recipes.VQVAEGlyphs()
    score = recipe.score(weights.load("vqvae-glyphs", recipe.model()))
    for key, value in block["score"].items():
        assert score[key] == (pytest.approx(value, abs=0.02) if isinstance(value, float) else value)
    assert score["reconstruction_nats"] < score["reconstruction_new_fonts_nats"] < 50
