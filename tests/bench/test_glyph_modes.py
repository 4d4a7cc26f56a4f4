"""The 100 modes are apart, the classifier tells them, the score counts what is known, every method trains its seeds alone."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import glyph_modes as bench
from genimg_lib.datasets import glyphs as faces

close = torch.testing.assert_close


@pytest.fixture(scope="module")
def held_out():
    return bench.glyphs(5_000, seed=77)


def test_modes_are_alike_inside_and_apart(held_out):
    x, mode = held_out
    assert x.shape == (5_000, 256) and x.min() >= -1 and x.max() == 1 and bench.MODES == 100
    assert set(bench.FACES) <= set(faces.TRAIN_FONTS) and len(set(bench.FACES)) == len(set(bench.CHARACTERS)) == 10
    assert torch.bincount(mode, minlength=100).min() > 20
    mean = torch.stack([x[mode == k].mean(0) for k in range(100)])
    apart = torch.cdist(mean, mean)
    nearest = torch.cdist(x, mean).argmin(1)
    assert apart[~torch.eye(100, dtype=torch.bool)].min() > 1.5 and (nearest == mode).float().mean() > 0.97
    assert (x[mode == 7].std(0) > 0.01).any()  # and no mode is one image


def test_a_mode_is_one_character_in_one_face():
    x, mode = bench.glyphs(300, seed=3)
    k = int(mode[0])
    factors = {"character": torch.tensor([faces.ALPHABET.index(bench.CHARACTERS[k // 10])]), "angle": torch.zeros(1)}
    factors |= {"font": torch.tensor([faces.FONTS.index(bench.FACES[k % 10])]), "shear": torch.zeros(1)}
    plain = faces.render(factors | {"scale": torch.full((1,), 1.075), "shift": torch.zeros(1, 2)}, 16).flatten(1) / 127.5 - 1
    distance = torch.cdist(plain, x)[0]
    assert distance[mode == k].max() < 5 and (distance[mode == k].mean() < distance[mode != k].min() + 1)
    assert int(mode[distance.argmin()]) == k


def test_the_classifier_tells_real_images_apart(held_out):
    net, confusion = bench.classifier()
    assert confusion.shape == (100, 100) and confusion.sum() == bench.HELD_OUT
    x, mode = held_out
    with torch.no_grad():
        accuracy = (net(x).argmax(1) == mode).float().mean()
    assert accuracy > 0.99 and abs(accuracy - confusion.trace() / confusion.sum()) < 0.01
    row = confusion.sum(1)
    assert torch.equal(row, torch.bincount(bench.glyphs(bench.HELD_OUT, seed=2)[1], minlength=100))  # row: what is true


def test_real_images_cover_all_modes(held_out):
    row = bench.score(held_out[0])
    assert row["modes"] == 100 and row["sure_percent"] > 98 and row["failed"] is None
    assert 20 < 2 * 5_000 * row["reverse_kl_nats"] / 99 * 20 < 30  # 2 N KL is about chi-squared of 99 degrees of freedom


def test_score_of_samples_that_miss_modes(held_out):
    x, mode = held_out
    half = x[mode < 50]
    row = bench.score(half)
    assert row["modes"] == 50 and abs(row["reverse_kl_nats"] - math.log(2)) < 0.03
    assert sum(row["counts"]) == pytest.approx(len(half), rel=0.02)
    share = torch.where(mode == 3, 0.1, 1.0)  # one mode with a tenth of its share is not covered
    few = x[torch.multinomial(share, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))]
    assert bench.score(few)["modes"] == 99
    noise = torch.rand(2_000, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert bench.score(noise)["sure_percent"] < 30
    grey = bench.score(torch.zeros(5_000, 256))
    assert grey["modes"] <= 1 and (grey["failed"] is None) == (grey["modes"] == 1)
    assert bench.score(x * torch.nan) == {"failed": "NaN"}


def test_packing_puts_neighbours_side_by_side():
    critic = bench.Critic([0, 1], 8, pack=2)
    x = torch.randn(2, 6, 256)
    assert critic(x).shape == (2, 3)
    close(critic(x), critic.net(torch.cat([x[:, ::2], x[:, 1::2]], -1))[..., 0])


def test_a_spectral_critic_is_bounded():
    critic = bench.Critic([0, 1], 8, spectral=True)
    x = torch.randn(2, 4, 256)
    for _ in range(200):
        critic(x)
    weights = [layer.weight for layer in critic.net if not isinstance(layer, nn.LeakyReLU)]
    assert len(weights) == 3 and all((torch.linalg.matrix_norm(weight, ord=2) < 1.001).all() for weight in weights)


@pytest.mark.parametrize("method", bench.METHODS)
def test_every_method_trains(method, monkeypatch):
    monkeypatch.setattr(bench, "SAMPLES", 50)
    monkeypatch.setattr(bench, "POOL", 500)
    bench.pool.cache_clear()
    config = bench.Config(method, steps=3, batch_size=8, width=8, seeds=(0, 1))
    sample, _ = bench.fit(config)
    bench.pool.cache_clear()
    assert sample.shape == (2, 50, 256) and sample.abs().max() <= 1 and not torch.equal(sample[0], sample[1])
    assert torch.equal(sample, bench.fit(config)[0])
    assert not torch.equal(sample, bench.fit(replace(config, lr=1e-2))[0])
    bench.pool.cache_clear()


def test_a_generator_learns_the_mean_of_the_data_at_least():
    """Of 60 updates against R1: nearer to the real mean than at the start."""
    x = bench.pool().mean(0)
    start, _ = bench.fit(bench.Config("r1", lr=1e-3, steps=1, average=0.9, seeds=(0,)))
    later, _ = bench.fit(bench.Config("r1", lr=1e-3, steps=60, average=0.9, seeds=(0,)))
    assert (later[0].mean(0) - x).norm() < 0.5 * (start[0].mean(0) - x).norm()


def test_tuning_takes_the_setting_with_most_modes(monkeypatch):
    reached = iter([(5, 90.0), (7, 50.0), (3, 99.0)])
    asked = []

    def fit(config):
        asked.append(config)
        return torch.tensor([next(reached)]).expand(2, -1), 0.0

    monkeypatch.setattr(bench, "fit", fit)
    monkeypatch.setattr(bench, "score", lambda s: {"modes": int(s[0]), "sure_percent": float(s[1])})
    config, tried = bench.tuned("gan")
    assert (config.lr, config.beta1) == bench.SETTINGS[1] and config.steps == bench.Config("gan").steps
    assert [row["modes"] for row in tried] == [5, 7, 3]
    assert all(one.seeds == bench.TUNING and one.steps == config.steps // 3 for one in asked)


def test_result_files(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    bench.main(["exact"])
    files = sorted(tmp_path.glob("*.json"))
    assert [file.stem for file in files] == [f"exact-seed{seed}" for seed in range(10, 15)]
    result = json.loads(files[0].read_text())
    assert result["modes"] == 100 and result["provenance"]["command"] == "python -m bench.glyph_modes exact"
    assert result["classifier_accuracy_percent"] > 99 and result["classifier_worst_mode_percent"] > 95
    files[0].write_text("{}")
    bench.main(["exact"])
    assert files[0].read_text() == "{}"  # what is there stays


def test_unknown_names():
    with pytest.raises(SystemExit, match="expected any of exact, gan"):
        bench.main(["vae"])
