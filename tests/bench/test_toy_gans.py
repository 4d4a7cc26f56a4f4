"""The stacked spectral norm against torch's, unrolling against finite differences, the score on samples that are known."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from bench import toy_gans
from bench import toy_networks as nets
from genimg_lib import losses
from genimg_lib.datasets import points

close = torch.testing.assert_close


def test_stacked_spectral_norm_is_torchs_for_each_weight():
    torch.manual_seed(0)
    weight = torch.randn(3, 6, 4)
    norm = nets.StackedSpectralNorm(weight)
    norm.update(weight, 500)
    together = norm.eval()(weight)
    close(torch.linalg.matrix_norm(together, ord=2), torch.ones(3))
    for own, one in zip(together, weight, strict=True):
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6), n_power_iterations=500)
        layer.parametrizations.weight.original.data = one
        close(layer.weight, own)


def test_spectral_norm_follows_the_weight_in_training_only():
    torch.manual_seed(0)
    norm = nets.StackedSpectralNorm(torch.randn(2, 5, 5))
    other, before = torch.randn(2, 5, 5), norm.v.clone()
    norm.eval()(other)
    assert torch.equal(norm.v, before)
    norm.train()
    for _ in range(300):
        scaled = norm(other)
    close(torch.linalg.matrix_norm(scaled, ord=2), torch.ones(2))


def test_every_layer_of_a_spectral_critic_is_bounded():
    critic = nets.Critic([0, 1], 8, spectral=True)
    x = torch.randn(2, 4, 2)
    for _ in range(200):
        critic(x)
    for layer in critic.net[::2]:
        assert (torch.linalg.matrix_norm(layer.weight, ord=2) < 1.001).all()


def test_packing_joins_neighbours():
    critic = nets.Critic([0], 8, pack=2)
    x = torch.randn(1, 6, 2)
    assert critic(x).shape == (1, 3)
    waves = (torch.pi * x[..., None] * torch.tensor([1.0, 2.0, 4.0])).flatten(2)
    seen = torch.cat([x, waves.sin(), waves.cos()], -1).reshape(1, 3, 2 * 14)
    close(critic(x), critic.net(seen)[..., 0])


def test_minibatch_statistic_sees_a_collapsed_group():
    critic = nets.Critic([0], 8, deviation=True)
    seen = []
    critic.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    x = torch.cat([torch.randn(1, 8, 2), torch.ones(1, 8, 2)], 1)
    critic(x)
    expected = seen[0][0, :8, :14].std(0, correction=0).mean()
    close(seen[0][0, :8, 14], expected.expand(8), rtol=1e-4, atol=1e-4)
    close(seen[0][0, 8:, 14], torch.zeros(8), rtol=0, atol=2e-4)


def test_a_mixture_gives_each_generator_its_share_in_order():
    G = nets.Mixture([3, 4], [2, 8, 2], k=4)
    with torch.no_grad():
        G.nets[-1].weight.zero_()
        G.nets[-1].bias.copy_(torch.arange(8.0)[:, None, None].expand(8, 1, 2))
    out = G(torch.randn(2, 12, 2))
    close(out[..., 0], torch.arange(8.0).view(2, 4).repeat_interleave(3, 1))


def test_which_generator_is_the_cross_entropy_of_the_makers():
    critic = nets.Critic([0, 1], 8, outputs=5)
    fake = torch.randn(2, 8, 2)
    log_shares = critic.heads(fake)[..., 1:].log_softmax(-1)
    expected = -torch.stack([log_shares[:, i, i // 2] for i in range(8)]).mean()  # 4 generators, two points each
    close(nets.which_generator(critic, fake), expected)


def test_unrolling_by_finite_differences():
    torch.set_default_dtype(torch.float64)
    try:
        critic = nets.Critic([0], 6).double()
        x, fake, direction = (torch.randn(1, 8, 2) for _ in range(3))
        with_graph = fake.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nets.unrolled(critic, x, with_graph, lr=0.1), with_graph)
        h = 1e-6
        up, down = (nets.unrolled(critic, x, (fake + s * h * direction).requires_grad_(), lr=0.1).detach() for s in (1, -1))
        close((slope * direction).sum(), (up - down) / (2 * h), rtol=1e-6, atol=1e-9)
        close(nets.unrolled(critic, x, with_graph, lr=0.0), -nets.logistic(critic, x, with_graph))
    finally:
        torch.set_default_dtype(torch.float32)


def test_unrolling_is_gradient_descent_of_a_copy():
    torch.manual_seed(0)
    critic = nets.Critic([0, 1], 16)
    x, fake = torch.randn(2, 64, 2), torch.randn(2, 64, 2) + 1
    copy = deepcopy(critic)
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
    for _ in range(nets.UNROLLED):
        optimizer.zero_grad()
        (2 * nets.logistic(copy, x, fake)).backward()  # the sum over the two seeds
        optimizer.step()
    close(nets.unrolled(critic, x, fake, lr=0.1), -nets.logistic(copy, x, fake))  # G climbs what D descends
    assert (nets.logistic(copy, x, fake) < nets.logistic(critic, x, fake)).all()


def test_an_unrolled_generator_foresees_steps_of_the_chosen_size(monkeypatch):
    seen = []
    name, critic, d_loss, g_loss = toy_gans.METHODS["unrolled"]
    spy = lambda D, x, fake, lr: (seen.append(lr), g_loss(D, x, fake, lr))[1]  # noqa: E731
    monkeypatch.setitem(toy_gans.METHODS, "unrolled", (name, critic, d_loss, spy))
    config = toy_gans.candidates("unrolled", "ring")[1]
    toy_gans.fit(replace(config, seeds=(0,), steps=2, batch_size=8, width=8))
    assert seen == [config.look_ahead] * 2


def test_penalties_are_added_with_their_weights():
    critic, x, fake = nets.Critic([0, 1], 8), torch.randn(2, 8, 2), torch.randn(2, 8, 2)
    at_x, at_fake = (losses.zero_centred_penalty(critic, where, batch_dims=2) for where in (x, fake))
    plain = losses.relativistic_d_loss(real_logits=critic(x), fake_logits=critic(fake))
    close(nets.relativistic_r1_r2(critic, x, fake, gamma=0.6), plain + 0.3 * (at_x + at_fake))
    close(nets.r1(critic, x, fake, gamma=0.6), nets.logistic(critic, x, fake) + 0.3 * at_x)


@pytest.mark.parametrize(("data", "k"), [("ring", 8), ("grid", 25)])
def test_score_of_the_exact_sampler(data, k):
    row = toy_gans.score(points(data, toy_gans.SAMPLES, seed=5).points, data)
    assert row["modes"] == k and row["failed"] is None
    assert abs(row["high_quality_percent"] - 98.89) < 4 * 100 * (0.9889 * 0.0111 / 2500) ** 0.5
    assert row["reverse_kl_nats"] < stats.chi2.ppf(0.9999, k - 1) / (2 * 2500)  # 2 N KL is about chi-squared
    assert abs(row["spread_over_sigma"] - 0.972) < 0.03  # what cutting off at 3 sigma leaves


def test_score_of_collapsed_and_broken_samples():
    known = points("grid", 1)
    one = known.centers[7] + torch.zeros(2500, 2)
    row = toy_gans.score(one, "grid")
    assert (row["modes"], row["high_quality_percent"], row["spread_over_sigma"]) == (1, 100.0, 0.0)
    assert abs(row["reverse_kl_nats"] - 3.2189) < 1e-4  # log 25
    row = toy_gans.score(one + 1, "grid")  # no point near any mode, so no histogram
    assert row["failed"] == "no mode has 20 samples within 3 sigma"
    assert (row["modes"], row["high_quality_percent"]) == (0, 0.0)
    assert row["reverse_kl_nats"] is row["spread_over_sigma"] is None
    assert toy_gans.score(one * torch.nan, "grid") == {"failed": "NaN"}
    few = torch.cat([one[:19], (known.centers[3] + torch.zeros(2500, 2))[:2481]])
    assert toy_gans.score(few, "grid")["modes"] == 1  # 19 samples do not cover a mode


@pytest.mark.parametrize("method", toy_gans.METHODS)
def test_every_method_trains_and_tries_three_settings(method):
    candidates = toy_gans.candidates(method, "grid")
    assert len(set(candidates)) == 3
    config = replace(candidates[0], seeds=(0, 1), steps=3, batch_size=32, width=8)
    sample, _ = toy_gans.fit(config)
    assert sample.shape == (2, 2500, 2) and sample.isfinite().all()
    assert torch.equal(sample, toy_gans.fit(config)[0])


def test_result_files(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_gans, "RESULTS", tmp_path)
    toy_gans.main(["ring", "exact"])
    files = sorted((tmp_path / "toy-ring").glob("*.json"))
    assert [file.stem for file in files] == [f"exact-seed{seed}" for seed in range(10, 15)]
    result = json.loads(files[0].read_text())
    assert result["modes"] == 8 and result["provenance"]["command"] == "python -m bench.toy_gans ring exact"
    files[0].write_text("{}")
    toy_gans.main(["ring", "exact"])
    assert files[0].read_text() == "{}"  # what is there stays


@pytest.mark.parametrize("arguments", [[], ["star"], ["ring", "vae"]])
def test_unknown_names(arguments):
    with pytest.raises(SystemExit, match="expected ring or grid, then any of exact, gan"):
        toy_gans.main(arguments)
