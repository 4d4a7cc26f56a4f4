"""Networks that are told the class, and their recipe: independent oracles, and the known-wrong variants differ."""

import dataclasses
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from genimg_lib import datasets, recipes, weights
from genimg_lib.datasets import files
from genimg_lib.metrics.classifier import CASELESS, GlyphClassifier, in_batches, read_out
from genimg_lib.networks import dcgan
from genimg_lib.networks.conditional import (
    ConditionalBatchNorm2d,
    Generator,
    ProjectionDiscriminator,
    sample,
    update_statistics,
)
from genimg_lib.recipes import conditional

close = torch.testing.assert_close
TINY = recipes.ConditionalGlyphs(steps=5, batch_size=8, latent_dim=3, embed_dim=2, width=4, width_D=4, decay=0.5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scattered(net: nn.Module, seed: int = 1) -> nn.Module:
    """The net with every class's γ and β different from all others."""
    torch.manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, ConditionalBatchNorm2d):
            nn.init.normal_(layer.gamma.weight, 1, 0.5)
            nn.init.normal_(layer.beta.weight, 0, 0.5)
    return net


def differs(a: torch.Tensor, b: torch.Tensor, by: float = 0.05) -> bool:
    return float((a - b).detach().abs().max()) > by


# --- conditional BatchNorm


@pytest.mark.parametrize("training", [True, False])
def test_each_class_has_the_affine_map_of_an_ordinary_batch_norm(training):
    """The oracle is torch's F.batch_norm with one class's γ, β on the whole batch, of which that class's rows are taken."""
    norm = scattered(ConditionalBatchNorm2d(5, 3))
    norm.normalise.running_mean.copy_(normal(5, seed=2))
    norm.normalise.running_var.copy_(normal(5, seed=3).exp())
    mean, var = norm.normalise.running_mean.clone(), norm.normalise.running_var.clone()
    h, y = 2 * normal(12, 5, 4, 4) + 1, torch.tensor([0, 1, 2, 2] * 3)
    found = norm.train(training)(h, y).detach()
    for k in range(3):
        gamma, beta = norm.gamma.weight[k].detach(), norm.beta.weight[k].detach()
        whole = F.batch_norm(h, mean.clone(), var.clone(), gamma, beta, training=training)
        close(found[y == k], whole[y == k], rtol=1e-4, atol=1e-5)
        alone = F.batch_norm(h[y == k], mean.clone(), var.clone(), gamma, beta, training=True)  # statistics of one class
        assert differs(found[y == k], alone)
        assert differs(found[y == k], F.batch_norm(h, mean, var, beta, gamma, training=training)[y == k])  # γ and β swapped
        other = F.batch_norm(h, mean.clone(), var.clone(), norm.gamma.weight[k - 1].detach(), beta, training=training)
        assert differs(found[y == k], other[y == k])  # another class's γ


def test_statistics_in_training_and_evaluation():
    """NumPy's mean and (biased) variance in training; the running ones, at first 0 and 1, in evaluation."""
    norm, h, y = ConditionalBatchNorm2d(2, 3), 3 * normal(8, 2, 3, 3) + 5, torch.arange(8) % 3
    close(norm.eval()(h, y), h / (1 + 1e-5) ** 0.5)  # γ = 1, β = 0
    found, values = norm.train()(h, y).detach().numpy(), h.numpy()
    mean, var = values.mean((0, 2, 3), keepdims=True), values.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, (values - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    close(norm.normalise.running_mean, 0.1 * torch.from_numpy(mean.flatten()))
    norm.eval()
    close(norm(h, y)[:2], norm(h[:2], y[:2]))  # alone as in its batch


def test_only_the_classes_in_the_batch_learn():
    norm = ConditionalBatchNorm2d(2, 4)
    (norm(normal(6, 2, 3, 3), torch.tensor([1, 1, 3, 3, 3, 1])) * normal(6, 2, 3, 3, seed=1)).sum().backward()
    for table in (norm.gamma, norm.beta):
        assert table.weight.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True]


# --- generator and discriminator


@pytest.mark.parametrize("size", [16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_there_and_back(size, channels, norm):
    G, D = Generator(7, 5, 4, size, channels, 2), ProjectionDiscriminator(7, 4, size, channels, 6, norm)
    y = torch.arange(6)
    x = G(50 * normal(6, 5), y)
    assert x.shape == (6, channels, size, size) == (6, *G.image_shape) and D.image_shape == G.image_shape
    assert float(x.detach().abs().max()) <= 1
    assert D(x, y).shape == (6,) and D(x[:1], y[:1]).shape == (1,)
    assert D.features(x).shape == (6, 6) and D.head(D.features(x)).shape == (6, 7)


def test_same_convolutions_as_the_dcgan():
    """Without the class's vector, and with all classes alike, G is the unconditional generator with the same weights."""
    torch.manual_seed(0)
    plain = dcgan.Generator(5, 4)
    G = Generator(3, 5, 4, embed_dim=1)
    convolutions = [m for m in plain.net if isinstance(m, nn.ConvTranspose2d)]
    with torch.no_grad():
        G.first.weight[:, :5] = convolutions[0].weight.flatten(1).T
        for mine, other in zip(G.ups, convolutions[1:], strict=True):
            mine.weight.copy_(other.weight)
        G.ups[-1].bias.copy_(convolutions[-1].bias.fill_(0.3))
        G.embed.weight.zero_()
        for mine, other in zip(G.norms, [m for m in plain.net if isinstance(m, nn.BatchNorm2d)], strict=True):
            mine.gamma.weight[:] = other.weight
    z, y = normal(9, 5), torch.arange(9) % 3
    close(G(z, y), plain(z))
    assert all(up.bias is None for up in G.ups[:-1])
    scattered(G)
    assert differs(G(z, y), plain(z))


@pytest.mark.parametrize("embed_dim", [0, 4])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_swapped_labels_are_noticed(embed_dim):
    torch.manual_seed(0)
    G, D = scattered(Generator(3, 5, 4, embed_dim=embed_dim)).eval(), ProjectionDiscriminator(3, 4)
    z, y, x = normal(4, 5), torch.tensor([0, 1, 2, 0]), normal(4, 1, 28, 28)
    swapped = torch.tensor([1, 0, 2, 0])
    with torch.no_grad():
        for before, after in ((G(z, y), G(z, swapped)), (D(x, y), D(x, swapped))):
            change = (before - after).flatten(1).abs().amax(1) if before.dim() > 1 else (before - after).abs()
            assert (change > 1e-4).tolist() == [True, True, False, False]  # and the others' images are not touched


def test_the_class_moves_the_first_map_unless_it_only_scales():
    torch.manual_seed(0)
    z = normal(2, 5)
    G = Generator(2, 5, 4, embed_dim=4).eval()  # γ = 1, β = 0 for both classes
    assert differs(G(z, torch.tensor([0, 0])), G(z, torch.tensor([1, 1])), 1e-6)
    with torch.no_grad():
        G.embed.weight.zero_()
    close(G(z, torch.tensor([0, 0])), G(z, torch.tensor([1, 1])), rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_projection_is_what_the_formula_says(norm):
    """Two labels' logits of one image differ by ⟨e_y - e_y', φ⟩; what is left is ψ(φ), by NumPy; the head plays no part."""
    torch.manual_seed(0)
    D, x = ProjectionDiscriminator(4, 4, features=6, norm=norm).eval(), 20 * normal(5, 1, 28, 28)
    phi, e = D.features(x).detach().numpy(), D.embed.weight.detach().numpy()
    y, other = torch.tensor([0, 1, 2, 3, 1]), torch.tensor([3, 0, 2, 1, 0])
    gap = (D(x, y) - D(x, other)).detach().numpy()
    expected = np.einsum("bf,bf->b", e[y.numpy()] - e[other.numpy()], phi)
    np.testing.assert_allclose(gap, expected, rtol=1e-4, atol=1e-6)
    assert gap[2] == 0 and np.abs(gap[[0, 1, 3, 4]]).min() > 1e-3
    assert np.abs(expected - np.einsum("bf,bf->b", e[other.numpy()] - e[y.numpy()], phi)).max() > 1e-2  # the sign
    psi = phi @ D.psi.weight.detach().numpy()[0] + D.psi.bias.item()
    np.testing.assert_allclose(D(x, y).detach().numpy() - np.einsum("bf,bf->b", e[y.numpy()], phi), psi, rtol=1e-3, atol=1e-5)
    before = D(x, y).detach()
    nn.init.normal_(D.head.weight)
    close(D(x, y).detach(), before, rtol=0, atol=0)


def test_spectral_norm_is_on_everything_but_the_head():
    torch.manual_seed(0)
    D, y = ProjectionDiscriminator(4, 4, features=6, norm="spectral"), torch.tensor([0, 1])
    with torch.no_grad():
        D.embed.parametrizations.weight.original.mul_(30)
    for _ in range(200):
        D(normal(2, 1, 28, 28), y)
    D.eval()
    layers = [m for m in [*D.phi, D.psi, D.embed] if hasattr(m, "weight")]
    assert len(layers) == 5 and not hasattr(D.head, "parametrizations")
    for layer in layers:
        assert np.linalg.norm(layer.weight.detach().flatten(1).numpy(), 2) == pytest.approx(1, rel=1e-2)


def test_every_parameter_gets_its_gradient():
    torch.manual_seed(0)
    G, D, y = (
        Generator(3, 5, 4, 16, embed_dim=2),
        ProjectionDiscriminator(3, 4, 16, features=6, norm="spectral"),
        torch.arange(6) % 3,
    )
    x = G(normal(6, 5), y)
    (D(x, y).sum() + F.cross_entropy(D.head(D.features(x)), y)).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for net in (G, D) for p in net.parameters())


# --- statistics, samples, errors


def test_statistics_of_an_average_are_those_of_its_own_maps():
    """After the update, evaluation agrees with training mode on a large batch; with stale statistics it does not."""
    torch.manual_seed(0)
    average = AveragedModel(scattered(Generator(3, 5, 4, embed_dim=2)))
    with torch.no_grad():
        average.module.first.weight.mul_(40)
    z, y = normal(3_000, 5, seed=5), torch.arange(3_000) % 3

    def error() -> float:
        with torch.no_grad():
            used = average.eval()(z, y)
            return float((used - AveragedModel(average.module).train()(z, y)).abs().mean() / used.std())

    assert error() > 0.1
    average.eval()
    update_statistics(average, ((normal(600, 5, seed=k), torch.arange(600) % 3) for k in range(4)))
    assert not average.training and error() < 0.02
    norm = average.module.norms[0].normalise
    with torch.no_grad():
        first, embed, y = average.module.first, average.module.embed, torch.arange(600) % 3
        maps = [first(torch.cat([normal(600, 5, seed=k), embed(y)], 1)).view(600, 8, 49) for k in range(4)]
    close(norm.running_mean, torch.cat(maps).mean((0, 2)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_samples_are_a_prefix_of_one_stream_and_in_the_unit_interval():
    torch.manual_seed(0)
    G, y = scattered(Generator(3, 5, 4, 16)).eval(), torch.tensor([2, 0, 1, 1, 0, 2, 2])
    many = sample(G, y, torch.Generator().manual_seed(3), batch_size=3)
    assert many.shape == (7, 1, 16, 16) and float(many.min()) >= 0 and float(many.max()) <= 1 and not many.requires_grad
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    close(many, (G(z, y).detach() + 1) / 2)
    assert differs(many, (G(z, y.flip(0)).detach() + 1) / 2, 0.01)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(2), "labels are torch.float32 (2,): expected torch.int64 (2,)"),
        (torch.zeros(1, dtype=torch.int64), "labels are torch.int64 (1,): expected torch.int64 (2,)"),
        (F.one_hot(torch.tensor([0, 1])), "labels are torch.int64 (2, 2): expected torch.int64 (2,)"),
        (torch.tensor([0, 3]), "labels span 0 to 3: expected 0 to 2"),
        (torch.tensor([-1, 0]), "labels span -1 to 0: expected 0 to 2"),
    ],
)
def test_other_labels_are_refused(y, message):
    for call in (
        lambda: ConditionalBatchNorm2d(1, 3)(normal(2, 1, 4, 4), y),
        lambda: Generator(3, 5, 4)(normal(2, 5), y),
        lambda: ProjectionDiscriminator(3, 4)(normal(2, 1, 28, 28), y),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_other_shapes_and_options_are_refused():
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=re.escape("this generator takes z ('B', 5), got (2, 4)")):
        Generator(3, 5, 4)(normal(2, 4), y)
    with pytest.raises(ValueError, match=re.escape("takes images ('B', 1, 28, 28), got (2, 1, 32, 32)")):
        ProjectionDiscriminator(3, 4)(normal(2, 1, 32, 32), y)
    for net in (Generator, ProjectionDiscriminator):
        with pytest.raises(ValueError, match=re.escape("size=30: expected a side of 16, 28 or 32 pixels; resize the images")):
            net(3, size=30)
    with pytest.raises(ValueError, match=re.escape("norm='batch': expected one of ('none', 'spectral')")):
        ProjectionDiscriminator(3, norm="batch")


# --- the recipe


@pytest.fixture
def few_glyphs(monkeypatch):
    """Every data set is the same 6,000 glyphs, at least 55 of each of the 36 characters."""
    few = datasets.load("glyphs", n=6_000)
    monkeypatch.setattr(datasets, "load", lambda name, **options: few)
    return few


def test_labels_are_the_36_characters_that_the_classifier_tells_apart(few_glyphs):
    """A real image's label is what its character is read as with the case ignored; the 62-class index is not it."""
    images, labels = TINY.real("train")
    assert labels.unique().tolist() == list(range(36)) and TINY.model().classes == 36
    assert all(
        CASELESS[k] == few_glyphs.classes[c].upper() for k, c in zip(labels.tolist(), few_glyphs.labels.tolist(), strict=True)
    )
    images, labels, original = images[:900], labels[:900], few_glyphs.labels[:900]
    read = TINY.read(datasets.to_unit(images))
    assert (read == labels).double().mean().item() > 0.97 > (read == original).double().mean().item() + 0.3
    classifier = weights.load("glyph-classifier", GlyphClassifier())
    assert torch.equal(read, read_out(in_batches(classifier, datasets.to_unit(images)), "caseless"))


def test_both_players_get_images_with_their_labels_and_learn(few_glyphs, tmp_path, monkeypatch):
    """D sees real images beside their labels, and fakes of the same ones; its auxiliary loss never sees a fake."""
    images, labels = TINY.real("train")
    known = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    seen, forward = [], conditional._TwoHeads.forward
    cross_entropy, taught = F.cross_entropy, []

    def spy(self, x, y):
        seen.append((x.detach().clone(), y.clone(), next(self.parameters()).detach().clone()))
        return forward(self, x, y)

    def spy_loss(logits, y):
        taught.append((len(logits), logits.grad_fn is not None, y.clone()))
        return cross_entropy(logits, y)

    monkeypatch.setattr(conditional._TwoHeads, "forward", spy)
    monkeypatch.setattr(conditional.F, "cross_entropy", spy_loss)
    before = [p.clone() for p in TINY.model().parameters()]
    model, _ = TINY.fit(tmp_path)
    for x, y, _ in (call for call in seen if len(call[0]) == 16):
        back = ((x[:8] + 1) / 2 * 255).round().to(torch.uint8)
        assert [known[image.numpy().tobytes()] for image in back] == y[:8].tolist() == y[8:].tolist()
        assert float(x[8:].abs().max()) <= 1
    assert [len(call[0]) for call in seen] == [16, 8, 8] + [16, 8] * 4  # one penalty, on the reals, in the first of 5 updates
    assert [n for n, _, _ in taught] == [8] * 10
    weights_of_D = [call[2] for call in seen if len(call[0]) == 16]
    assert all(not torch.equal(a, b) for a, b in pairwise(weights_of_D))
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_step_size_falls_to_zero_for_both(few_glyphs, tmp_path, monkeypatch):
    seen, adam = [], conditional.adam

    def spy(*arguments, **options):
        optimizer = adam(*arguments, **options)
        optimizer.register_step_pre_hook(lambda o, *_: seen.append((o.param_groups[0]["lr"], o.param_groups[0]["betas"])))
        return optimizer

    monkeypatch.setattr(conditional, "adam", spy)
    dataclasses.replace(TINY, lr=0.5, steps=4).fit(tmp_path)
    assert seen == [(lr, (0.0, 0.999)) for lr in (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25)]


def test_run_scores_and_resumes(few_glyphs, tmp_path):
    path = TINY.run(tmp_path)
    block = json.loads((tmp_path / "conditional-glyphs.json").read_text())
    model = TINY.model()
    model.load_state_dict(load_file(path))
    assert TINY.score(model.eval()) == block["score"] and block["recipe"]["auxiliary"] == TINY.auxiliary and block["steps"] == 5
    assert block["score"]["right"] < 0.2 < 0.9 < block["score"]["right_real"]  # five updates teach nothing
    first = path.read_bytes()
    assert TINY.run(tmp_path, resume=True).read_bytes() == first


@pytest.mark.skipif("conditional-glyphs" not in weights.names(), reason="not trained yet")
def test_shipped_generator_has_the_score_it_claims():
    block = weights.provenance("conditional-glyphs")
    recipe = recipes.ConditionalGlyphs(**block["recipe"])
    assert recipe == recipes.ConditionalGlyphs()  # made by the recipe as it stands
    G = weights.load("conditional-glyphs", recipe.model())
    score = recipe.score(G)
    for key, value in block["score"].items():
        assert score[key] == (pytest.approx(value, abs=0.005) if isinstance(value, float) else value)
    assert score["right"] >= 0.9 and score["right_worst"] > 0.5 and score["right_real"] > 0.98
    with torch.no_grad():  # labels off by one: what is read is no longer what was asked for
        G.embed.weight.copy_(G.embed.weight.roll(1, 0))
        for norm in G.norms:
            norm.gamma.weight.copy_(norm.gamma.weight.roll(1, 0))
            norm.beta.weight.copy_(norm.beta.weight.roll(1, 0))
    assert recipe.score(G)["right"] < 0.1


# --- Fashion-MNIST: nothing below needs the data set


def test_fashion_that_cannot_be_had_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("GENIMG_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(files, "MIRRORS", {"fashion-mnist": ()})
    message = r"could not get train-images-idx3-ubyte.gz of fashion-mnist(.|\n)*put the file at \$GENIMG_DATA_DIR/fashion-mnist"
    for recipe in (recipes.FashionClassifier(), recipes.ConditionalFashion()):
        with pytest.raises(OSError, match=message):
            recipe.run(tmp_path)
        assert not list(tmp_path.glob("*.safetensors"))


@pytest.fixture
def few_clothes(monkeypatch):
    """Fashion-MNIST is 400 bars, at a height that tells the class, in noise."""
    labels = torch.arange(400) % 10
    images = torch.randint(0, 60, (400, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 * label + 3 : 2 * label + 6] = 250
    few = datasets.ImageDataset(images, labels, datasets.FASHION, "fashion-mnist")
    monkeypatch.setattr(datasets, "load", lambda name, **options: few)
    return few


def test_fashion_classifier_learns_and_scores(few_clothes, tmp_path):
    recipe = recipes.FashionClassifier(steps=40, batch_size=40)
    path = recipe.run(tmp_path)
    score = json.loads((tmp_path / "fashion-classifier.json").read_text())["score"]
    assert path.stat().st_size < 300_000 and score["accuracy"] > 0.9 > 0.3 > recipe.score(recipe.model())["accuracy"]
    assert score["accuracy"] == pytest.approx(np.mean(list(score["accuracy_by_class"].values())), abs=1e-3)
    assert recipe.run(tmp_path / "again").read_bytes() == path.read_bytes()


def test_conditional_fashion_trains_on_its_ten_classes(few_clothes, tmp_path, monkeypatch):
    tiny = recipes.ConditionalFashion(steps=2, batch_size=8, latent_dim=3, embed_dim=2, width=4, width_D=4)
    model, _ = tiny.fit(tmp_path)
    assert model.classes == 10 and torch.equal(tiny.real("test")[1], few_clothes.labels)
    monkeypatch.setattr(recipes.ConditionalFashion, "read", lambda self, x: x.flatten(1).sum(1).long() % 10)
    y = torch.arange(10).repeat_interleave(2)
    x = torch.zeros(20, 1, 28, 28)
    x[:, 0, 0, 0], x[0, 0, 0, 1] = y.float(), 1  # one of class 0 is read as 1
    assert tiny.judge(x, y) == {"right": 0.95, "right_worst": 0.5, "spread": pytest.approx(0.5**0.5 / 784 / 10, abs=1e-4)}


@pytest.mark.skipif("fashion-classifier" not in weights.names(), reason="not trained yet")
def test_shipped_fashion_classifier_is_the_recipes():
    block = weights.provenance("fashion-classifier")
    assert recipes.FashionClassifier(**block["recipe"]) == recipes.FashionClassifier() and block["score"]["accuracy"] >= 0.9
    weights.load("fashion-classifier", recipes.FashionClassifier().model())


@pytest.mark.skipif("conditional-fashion" not in weights.names(), reason="not trained yet")
def test_shipped_fashion_generator_has_the_score_it_claims():
    block = weights.provenance("conditional-fashion")
    recipe = recipes.ConditionalFashion(**block["recipe"])
    assert recipe == recipes.ConditionalFashion()
    G, y = weights.load("conditional-fashion", recipe.model()), torch.arange(10).repeat_interleave(200)
    score = recipe.judge(sample(G, y, torch.Generator().manual_seed(0)), y)
    assert score == {key: pytest.approx(block["score"][key], abs=0.005) for key in score} and score["right"] > 0.7
    swapped = recipe.judge(sample(G, y.roll(200), torch.Generator().manual_seed(0)), y)
    assert swapped["right"] < 0.3  # labels off by one
