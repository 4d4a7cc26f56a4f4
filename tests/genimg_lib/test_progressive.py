"""Fade-in identities at both ends, the equalised rate against a plain convolution, the two statistics by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genimg_lib.losses import input_gradient
from genimg_lib.networks.progressive import (
    EqualConv2d,
    Given,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    at_stage,
    minibatch_std,
    pixel_norm,
)

WIDE = (6, 5, 4, 3)


@pytest.fixture
def nets():
    torch.manual_seed(0)
    G, D = ProgressiveGenerator(7, WIDE).double(), ProgressiveDiscriminator(WIDE).double()
    for net in (G, D):  # offsets start at 0 and would hide a mistake
        for name, weight in net.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(weight)
    return G, D


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x):
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_alpha_0_is_the_level_below(nets, level):
    G, D = nets
    z, x = draw(4, 7), draw(4, 3, 4 * 2**level, 4 * 2**level)
    torch.testing.assert_close(G(z, level, 0.0), doubled(G(z, level - 1)))
    torch.testing.assert_close(D(x, level, 0.0), D(halved(x), level - 1))
    assert (G(z, level) - doubled(G(z, level - 1))).abs().max() > 0.1  # the identity would fail at alpha = 1
    assert (D(x, level) - D(halved(x), level - 1)).abs().max() > 1e-3


@pytest.mark.parametrize("level", [1, 2, 3])
def test_between_the_ends_g_is_linear_in_alpha_and_at_1_the_old_layer_is_out(nets, level):
    G, D = nets
    z, x = draw(4, 7), draw(4, 3, 4 * 2**level, 4 * 2**level)
    torch.testing.assert_close(G(z, level, 0.3), 0.7 * G(z, level, 0.0) + 0.3 * G(z, level, 1.0))
    whole, faded = (G(z, level), D(x, level)), (G(z, level, 0.9), D(x, level, 0.9))
    with torch.no_grad():
        for layer in (*G.to_rgb[level - 1].parameters(), *D.from_rgb[level - 1].parameters()):
            layer.add_(1.0)
    torch.testing.assert_close((G(z, level), D(x, level)), whole)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip((G(z, level, 0.9), D(x, level, 0.9)), faded, strict=True))


def test_discriminator_fades_features_not_logits(nets):
    """alpha mixes what enters the next block: with a nonlinear rest, mixing the logits would be something else."""
    _, D = nets
    x = draw(4, 3, 16, 16)
    h = 0.5 * D.from_rgb[1](halved(x)) + 0.5 * halved(D.blocks[1](D.from_rgb[2](x)))
    h = minibatch_std(halved(D.blocks[0](h)))
    expected = D.head(D.last(h).flatten(1)[:, :, None, None]).flatten()
    torch.testing.assert_close(D(x, 2, 0.5), expected)
    assert (expected - (D(x, 2, 0.0) + D(x, 2, 1.0)) / 2).abs().max() > 1e-3


def test_equalised_convolution_is_a_plain_one_with_a_scaled_weight():
    torch.manual_seed(0)
    layer, plain = EqualConv2d(5, 4).double(), nn.Conv2d(5, 4, 3, padding=1).double()
    nn.init.normal_(layer.bias)
    c = math.sqrt(2) / math.sqrt(5 * 9)
    plain.load_state_dict({"weight": c * layer.weight, "bias": layer.bias})
    x = draw(2, 5, 6, 6)
    torch.testing.assert_close(layer(x), plain(x))
    assert (layer(x) - F.conv2d(x, layer.weight / math.sqrt(5 * 9), layer.bias, padding=1)).abs().max() > 0.1, "no √2"
    gradients = [torch.autograd.grad(net(x).square().sum(), net.weight)[0] for net in (layer, plain)]
    torch.testing.assert_close(gradients[0], c * gradients[1])  # so Adam's relative step is the same in every layer


def test_equalised_layers_keep_the_scale_and_adam_moves_all_alike():
    torch.manual_seed(0)
    x = torch.randn(2000, 40, 1, 1)
    layer = EqualConv2d(40, 400, 1)
    assert F.relu(layer(x)).square().mean().item() == pytest.approx(1, rel=0.05)  # He's constant: E[ReLU(h)²] = Var(h)/2
    moved = []
    for width in (8, 200):
        layer = EqualConv2d(width, 50, 1)
        before, optimizer = layer.weight.detach().clone(), torch.optim.Adam(layer.parameters(), 0.01)
        layer(torch.randn(64, width, 1, 1)).square().sum().backward()
        optimizer.step()
        moved.append(((layer.weight - before).norm() / before.norm()).item())
    assert moved == pytest.approx([0.01, 0.01], rel=0.1)


def test_pixel_norm_brings_every_place_to_mean_square_1():
    x = 5 * draw(3, 6, 4, 4) + 2
    y = pixel_norm(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(3, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(y, x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) / math.sqrt(6)))
    assert (y - F.normalize(x, dim=1)).abs().max() > 0.1, "length 1 is not mean square 1"
    assert pixel_norm(torch.zeros(1, 3, 1, 1)).abs().max() == 0


def test_minibatch_std_is_the_mean_of_the_standard_deviations_and_0_for_equal_images():
    x = draw(5, 3, 4, 4)
    with_map = minibatch_std(x)
    expected = torch.stack([x[:, c, i, j].std(correction=0) for c in range(3) for i in range(4) for j in range(4)]).mean()
    assert with_map.shape == (5, 4, 4, 4) and torch.equal(with_map[:, :3], x)
    torch.testing.assert_close(with_map[:, 3], expected.expand(5, 4, 4))
    assert abs(expected - x.var(0, correction=0).mean().sqrt()) > 1e-3, "the root of the mean variance is something else"
    equal = x[:1].expand(5, -1, -1, -1)
    torch.testing.assert_close(minibatch_std(equal)[:, 3], torch.full((5, 4, 4), 1e-4, dtype=torch.float64))
    equal = equal.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(minibatch_std(equal).sum(), equal)
    assert gradient.isfinite().all()  # a bare standard deviation has no derivative at 0


def test_only_the_spread_couples_images():
    torch.manual_seed(0)
    x, other = draw(4, 3, 8, 8), draw(4, 3, 8, 8).flip(0)
    changed = torch.cat([x[:1], other[1:]])
    for spread in (True, False):
        D = ProgressiveDiscriminator(WIDE, spread=spread).double()
        assert bool((D(x, 1)[0] - D(changed, 1)[0]).abs() > 1e-6) == spread
        assert input_gradient(Given(D, 1), x).shape == (4, 3 * 64)


def test_real_images_are_faded_like_generated_ones():
    x = draw(2, 3, 32, 32)
    small = halved(x)
    torch.testing.assert_close(at_stage(x, 3), x)
    torch.testing.assert_close(at_stage(x, 2), small)
    torch.testing.assert_close(at_stage(x, 2, 0.25), 0.25 * small + 0.75 * doubled(halved(small)))
    torch.testing.assert_close(at_stage(x, 0, 1.0), x.unflatten(3, (4, 8)).unflatten(2, (4, 8)).mean((3, 5)))


def test_given_passes_on_and_shares_parameters(nets):
    G, _ = nets
    z = draw(2, 7)
    assert torch.equal(Given(G, 2, 0.5)(z), G(z, 2, 0.5))
    assert {id(p) for p in Given(G, 2).parameters()} == {id(p) for p in G.parameters()}


def test_wrong_shapes_and_stages_say_so(nets):
    G, D = nets
    with pytest.raises(ValueError, match=r"level=4, alpha=1.0: expected a level from 0 to 3"):
        G(draw(1, 7), 4)
    with pytest.raises(ValueError, match=r"alpha=1.5"):
        D(draw(1, 3, 8, 8), 1, 1.5)
    with pytest.raises(ValueError, match=r"takes z \('B', 7\), got \(1, 6\)"):
        G(draw(1, 6))
    with pytest.raises(ValueError, match=r"at level 1 D takes images \('B', 3, 8, 8\), got \(1, 3, 16, 16\)"):
        D(draw(1, 3, 16, 16), 1)
