"""The two colour recipes: stages in order, penalties and labels where they belong, runs that resume, scores that repeat."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from genimg_lib import datasets, recipes, weights
from genimg_lib.metrics.classifier import read_out
from genimg_lib.networks.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from genimg_lib.recipes import scaling
from genimg_lib.recipes.scaling import as_ink, judge

TINY = {
    "progressive-colour": recipes.ProgressiveColour(steps=20, batch_size=4, latent_dim=3, decay=0.5),
    "biggan-colour": recipes.BigGANColour(steps=4, batch_size=6, latent_dim=6, width=8, decay=0.5),
}


@pytest.fixture
def few_glyphs(monkeypatch):
    """Every data set is at most 40 glyphs of the kind asked for."""
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda name, **options: load(name, **{**options, "n": 40}))


def colour_digits(n, size):
    return datasets.load("glyphs", split="test", n=n, fonts="train", size=size, color=True, characters="0123456789")


@pytest.mark.parametrize("size", [16, 32])
def test_the_ink_of_real_digits_is_read_right(size):
    data = colour_digits(1_000, size)
    x = datasets.to_unit(data)
    assert judge(x, data.labels, x)["right"] >= 0.995 and judge(x, None, x)["sure"] >= (0.8 if size == 16 else 0.93)
    ink = as_ink(x)
    grey = datasets.load("glyphs", split="test", n=1_000, fonts="train", size=28, characters="0123456789")
    assert ink.shape == (1_000, 1, 28, 28) and (ink - datasets.to_unit(grey)).abs().mean() < 0.04  # the same glyphs, drawn grey
    torch.testing.assert_close(as_ink(1 - x), ink)  # dark on light or light on dark is all one


def test_the_ink_of_what_is_no_glyph_is_not_read_right():
    y = torch.arange(500) % 10
    noise = torch.rand(500, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = colour_digits(500, 16)
    x = datasets.to_unit(data)
    found, real = judge(noise, y, x), judge(x[torch.randperm(500)], y, x)
    assert found["right"] < 0.2 and found["classes"] < 10 and found["frechet"] > 100 * real["frechet"]
    assert abs(real["right"] - 0.1) < 0.06, "labels that do not belong to their images"
    flat = torch.full((3, 3, 16, 16), 0.5)
    assert as_ink(flat).abs().max() == 0 and read_out(torch.zeros(1, 62)).shape == (1,)


def test_stages_grow_fade_and_rest():
    recipe = recipes.ProgressiveColour(steps=100, shares=(1, 2, 3, 4))
    stages = [recipe.stage(step) for step in range(100)]
    assert [sum(level == k for level, _ in stages) for k in range(4)] == [10, 20, 30, 40]
    assert all(alpha == 1 for level, alpha in stages if level == 0)
    for level in (1, 2, 3):
        alphas = [alpha for found, alpha in stages if found == level]
        assert alphas == sorted(alphas) and alphas[0] < 0.01 and alphas[len(alphas) // 2] == pytest.approx(1)
        assert alphas[len(alphas) // 4] == pytest.approx(0.5, abs=0.1) and set(alphas[len(alphas) // 2 + 1 :]) == {1.0}


def test_r1_at_every_lazy_update_with_its_weight(monkeypatch):
    recipe = recipes.ProgressiveColour(steps=100, gamma=0.5, lazy=4)
    monkeypatch.setattr(scaling, "zero_centred_penalty", lambda D, x: torch.tensor(100.0))
    G, D = ProgressiveGenerator(48), ProgressiveDiscriminator()
    found = []
    for step in range(8):
        game = recipe.game(step, torch.zeros(4, 3, 32, 32), torch.zeros(4), G, D)
        with torch.no_grad():
            plain = scaling.logistic_d_loss(real_logits=game["D"](game["x"]), fake_logits=game["D"](game["x"]))
            found.append((game["d_loss"](game["D"], game["x"], game["x"]) - plain).item())
    assert found == pytest.approx([100, 0, 0, 0] * 2, abs=1e-3)  # γ/2 · lazy · 100


def test_orthogonal_penalty_of_g_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(scaling, "orthogonal_penalty", lambda w, diagonal: seen.append(diagonal) or (w * 0).sum() + 1)
    recipe = dataclasses.replace(TINY["biggan-colour"], orthogonal=10.0)
    G, D = recipe.networks()
    x, y = torch.zeros(4, 3, 16, 16), torch.arange(4)
    game = recipe.game(0, x, y, G, D)
    loss = game["g_loss"](game["D"], x, x).item()
    matrices = [w for name, w in G.named_parameters() if w.dim() > 1 and name != "embed.weight"]
    D.eval()
    assert seen == [False] * len(matrices)
    assert loss == pytest.approx(10 * len(matrices) - D(x, y).mean().item(), abs=0.05)


@pytest.mark.parametrize("name", sorted(TINY))
def test_run_ships_the_average_scores_and_resumes(few_glyphs, tmp_path, monkeypatch, name):
    tiny = TINY[name]
    monkeypatch.setattr(type(tiny), "score", lambda self, model: {"training": float(model.training)})
    path = tiny.run(tmp_path)
    block = json.loads((tmp_path / f"{name}.json").read_text())
    assert block["score"] == {"training": 0.0} and block["data"]["options"]["characters"] == "0123456789"
    tiny.model().load_state_dict(load_file(path))
    first = path.read_bytes()
    assert tiny.run(tmp_path, resume=True).read_bytes() == first
    assert dataclasses.replace(tiny, seed=1).run(tmp_path / "other").read_bytes() != first


@pytest.mark.parametrize("name", sorted(TINY))
def test_both_players_move_and_their_step_sizes_fall(few_glyphs, tmp_path, monkeypatch, name):
    seen, step = [], scaling.gan_step

    def spy(G, D, opt_G, opt_D, **rest):
        before = [[p.detach().clone() for p in net.parameters()] for net in (G, D)]
        result = step(G, D, opt_G=opt_G, opt_D=opt_D, **rest)
        moved = [
            any(not torch.equal(a, b) for a, b in zip(was, net.parameters(), strict=True))
            for was, net in zip(before, (G, D), strict=True)
        ]
        seen.append((*moved, opt_G.param_groups[0]["lr"], opt_D.param_groups[0]["lr"], float(rest["x"].min())))
        return result

    monkeypatch.setattr(scaling, "gan_step", spy)
    tiny = dataclasses.replace(TINY[name], steps=8, lr=0.01, lr_D=0.02)
    tiny.fit(tmp_path)
    assert all(g and d for g, d, *_ in seen) and min(low for *_, low in seen) < -0.5
    assert [lr for _, _, lr, _, _ in seen] == pytest.approx([0.01] * 7 + [0.005])
    assert [lr for _, _, _, lr, _ in seen] == pytest.approx([0.02] * 7 + [0.01])


@pytest.mark.parametrize(("name", "key"), [("biggan-colour", "right"), ("progressive-colour", "sure")])
def test_shipped_colour_models_have_the_scores_they_claim(name, key):
    if name not in weights.names():
        pytest.skip("not trained yet")
    block = weights.provenance(name)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in block["recipe"].items()}
    recipe = recipes.find(name)(**fields)
    assert recipe == recipes.find(name)()  # made by the recipe as it stands
    model = weights.load(name, recipe.model())
    score = recipe.score(model)
    for measure, value in block["score"].items():
        tolerance = {"abs": 0.005, "rel": 0.01}
        assert score[measure] == (pytest.approx(value, **tolerance) if isinstance(value, float) else value)
    torch.manual_seed(0)
    untrained = recipe.score(recipe.model().eval())
    assert untrained[key] < 0.5 * score[key] and score["frechet_real"] < score["frechet"] < 0.5 * untrained["frechet"]
