"""Every kind changes what its name says; a mixture draws each image from one generator; equal arithmetic is equal."""

import json
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from bench import scaling
from bench.scaling import KINDS, Kind, Mixture, networks
from genimg_lib import losses
from genimg_lib.networks.biggan import SelfAttention


def count(net):
    return sum(p.numel() for p in net.parameters())


def by_name(words):
    (kind,) = [kind for kind in KINDS if words in kind.name]
    return kind


def test_each_kind_changes_one_thing():
    first = asdict(KINDS[0])
    assert KINDS[0] == Kind() and len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS[1:]:
        changed = {key for key, value in asdict(kind).items() if value != first[key]} - {"name", "size"}
        assert len(changed) == (0 if kind == by_name("full size") else 1), kind
    grown, whole = by_name("grown"), by_name("full size")
    assert asdict(grown) | {"name": "", "grows": False} == asdict(whole) | {"name": ""}


def test_what_the_kinds_are():
    def attention(net):
        return sum(isinstance(part, SelfAttention) for part in net.modules())

    def spectral(net):
        return any(hasattr(part, "parametrizations") for part in net.modules())

    def skips(net):
        return sum(name.endswith("skip") and part is not None for name, part in net.named_modules())

    for kind in KINDS:
        if kind.size == 32:
            continue
        G, D = networks(kind)
        assert attention(G) == kind.experts * kind.attention and attention(D) == kind.attention
        assert spectral(D) != kind.relativistic and not spectral(G)
        assert bool(skips(G)) == bool(skips(D)) == kind.residual
    one, four = (count(networks(kind)[0]) for kind in (KINDS[0], by_name("four")))
    assert 0.75 < four / one < 1.25 and len(networks(by_name("four"))[0].generators) == 4
    assert [count(net) for net in networks(by_name("grown"))] == [count(net) for net in networks(by_name("full size"))]


def test_each_image_of_a_mixture_is_drawn_by_one_generator():
    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, z, y):
            return (self.value + y)[:, None, None, None] + torch.zeros(len(z), 3, 2, 2) + z.sum(1)[:, None, None, None]

    mixture = Mixture([Constant(100.0 * k) for k in range(3)])
    z, y = torch.zeros(7, 2), torch.arange(7) * 10
    z[:, 0] = torch.arange(7)
    expected = torch.tensor([0.0, 111, 222, 33, 144, 255, 66])
    torch.testing.assert_close(mixture(z, y)[:, 0, 0, 0], expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_update_moves_both_and_plays_its_own_game(kind, monkeypatch):
    monkeypatch.setattr(scaling, "BATCH", 8)
    called = set()
    for name in ("hinge_d_loss", "relativistic_d_loss", "logistic_d_loss", "zero_centred_penalty"):
        original = getattr(losses, name)

        def spy(*given, name=name, original=original, **named):
            called.add(name)
            return original(*given, **named)

        monkeypatch.setattr(losses, name, spy)
    torch.manual_seed(0)
    G, D = networks(kind)
    opts = [torch.optim.SGD(net.parameters(), 0.1) for net in (G, D)]
    before = [[p.detach().clone() for p in net.parameters()] for net in (G, D)]
    x = torch.rand(8, 3, kind.size, kind.size) * 2 - 1
    scaling.update(kind, G, D, opts, x, torch.arange(8), (3, 1.0))
    for was, net in zip(before, (G, D), strict=True):
        assert any(not torch.equal(old, new) for old, new in zip(was, net.parameters(), strict=True))
    expected = {"logistic_d_loss", "zero_centred_penalty"} if kind.size == 32 else {"hinge_d_loss"}
    assert called == ({"relativistic_d_loss", "zero_centred_penalty"} if kind.relativistic else expected)


def test_equal_arithmetic(monkeypatch):
    """Four levels each dearer than the one below; the count is that of the convolutions, by hand at 4 x 4."""
    costs = [scaling.arithmetic(level, 1.0) for level in range(4)]
    assert costs == sorted(costs) and costs[3] > 10 * costs[0]
    wide, places = scaling.CHANNELS[0], 16
    G = scaling.LATENT * 16 * wide + 2 * 9 * wide**2 * places + 3 * wide * places  # multiply and add: two operations
    D = 3 * wide * places + 9 * (wide + 1) * wide * places + 16 * wide
    assert costs[0] == 2 * scaling.BATCH * (4 * G + 14 * D)
    assert scaling.arithmetic(2, 0.5) > costs[2]  # fading costs a little more
    whole, grown = scaling.steps_of(by_name("full size")), scaling.steps_of(by_name("grown"))
    assert 0.2 * grown < whole < 0.8 * grown and scaling.steps_of(Kind()) == scaling.STEPS


def test_a_short_game_runs_and_scores(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "SAMPLES", 100)
    monkeypatch.setattr(scaling, "IMAGES", 200)
    monkeypatch.setattr(scaling, "steps_of", lambda kind: 3)
    row = scaling.result(0, 1)
    assert row["provenance"]["seed"] == 1 and row["provenance"]["steps"] == 3 and row["method"] == KINDS[0].name
    assert row["provenance"]["failed"] is None and row["frechet"] > row["frechet_of_one_digit"] > row["frechet_of_real"]
    assert 0 <= row["read_right_percent"] < 40 < row["sure_of_real_percent"]
    play = scaling.play
    monkeypatch.setattr(scaling, "play", lambda *given: play(*given) * float("nan"))
    broken = scaling.result(0, 1)
    assert broken["provenance"]["failed"] == "not finite" and broken["frechet"] is None is broken["read_right_percent"]
    monkeypatch.setattr(scaling, "play", play)
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    monkeypatch.setattr(scaling, "SEEDS", (0,))
    scaling.main(["5"])
    first = (tmp_path / "05-seed0.json").read_bytes()
    scaling.main(["5"])
    assert (tmp_path / "05-seed0.json").read_bytes() == first and b'"read_right_percent": null' in first


def test_the_chapters_table_is_that_of_the_result_files():
    (path,) = Path("notebooks/gan").glob("12_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    text = next(cell.source for cell in cells if "| kind | three seeds |" in cell.source)
    for number, kind in enumerate(KINDS):
        results = [json.loads(file.read_text()) for file in scaling.RESULTS.glob(f"{number:02d}-seed*.json")]
        distances = sorted(round(result["frechet"]) for result in results)
        assert len(distances) == len(scaling.SEEDS)
        assert f"| {kind.name} | " + ", ".join(f"{distance:,}" for distance in distances) + " |\n" in text
