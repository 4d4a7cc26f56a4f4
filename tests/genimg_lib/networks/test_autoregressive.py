"""Which pixels a logit depends on (by gradients), total probability by enumeration, and sampling against the conditionals."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genimg_lib.networks.autoregressive import MaskedConv2d, PixelCNN, gated


def jacobian(logits, one_hot):
    """(H·W, H·W) bool: does output place i depend on input place j?"""
    size = one_hot.shape[2] * one_hot.shape[3]
    rows = []
    for i in range(size):
        total = logits.flatten(2)[0, :, i].square().sum()
        rows.append(torch.autograd.grad(total, one_hot, retain_graph=True)[0].abs().sum(1).flatten() > 0)
    return torch.stack(rows)


def all_images(height, width, levels=2):
    """Every image of a small space, (K^(H·W), H, W)."""
    return torch.tensor(list(product(range(levels), repeat=height * width))).view(-1, height, width)


def total_probability(log_prob, images):
    with torch.no_grad():
        return log_prob(images).exp().sum().item()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PixelCNN(levels=2, channels=4, layers=2, reach=2).double()


class Plain(nn.Module):
    """A stack of masked convolutions in raster order."""

    def __init__(self, *mask_types):
        super().__init__()
        torch.manual_seed(0)
        channels = [2] + [6] * (len(mask_types) - 1) + [2]
        pairs = zip(mask_types, channels, channels[1:], strict=False)
        self.layers = nn.ModuleList(MaskedConv2d(t, i, o, 3) for t, i, o in pairs).double()

    def logits(self, one_hot):
        for layer in self.layers[:-1]:
            one_hot = torch.tanh(layer(one_hot))
        return self.layers[-1](one_hot)

    def log_prob(self, x):
        logits = self.logits(F.one_hot(x, 2).movedim(-1, 1).double())
        return -F.cross_entropy(logits, x, reduction="none").sum((1, 2))


def earlier(size):
    return torch.ones(size, size, dtype=torch.bool).tril(-1)


def test_no_logit_of_the_two_stacks_sees_its_own_pixel_or_a_later_one_and_none_earlier_is_missed():
    torch.manual_seed(0)
    model = PixelCNN(levels=2, channels=4, layers=4, reach=3).double()
    one_hot = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    seen = jacobian(model.along(one_hot, model.above(one_hot)), one_hot)
    assert torch.equal(seen, earlier(36))


def test_no_two_rows_are_mixed_beyond_the_reach():
    torch.manual_seed(0)
    model = PixelCNN(levels=2, channels=3, layers=2, reach=2).double()
    one_hot = torch.rand(1, 2, 8, 5, dtype=torch.float64, requires_grad=True)
    seen = jacobian(model.along(one_hot, model.above(one_hot)), one_hot).view(8, 5, 8, 5)
    up = {r: 7 - int(seen[r].any((0, 2)).int().argmax()) for r in range(8)}
    assert model.rows == 4
    assert up[7] == 4  # the earliest row that row 7 looks at is row 3


@pytest.mark.parametrize(("mask_types", "own"), [("ABB", False), ("BBB", True), ("AAA", False)])
def test_masked_stack_is_causal_only_with_type_a_first(mask_types, own):
    model = Plain(*mask_types)
    one_hot = torch.rand(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    seen = jacobian(model.logits(one_hot), one_hot)
    assert not seen.triu(1).any()
    assert bool(seen.diagonal().any()) is own


def test_masked_stack_has_a_blind_spot():
    """Even in the middle of a large image and with many layers: the pixel two to the right in the row above is never seen."""
    model = Plain(*"ABBB")
    one_hot = torch.rand(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    seen = jacobian(model.logits(one_hot), one_hot).view(9, 9, 9, 9)
    assert seen[4, 4, 3, 5]  # a 3 x 3 kernel gains one column to the right with each row up
    assert not seen[4, 4, 3, 6]
    assert seen[4, 4, 2, 6]
    assert not seen[4, 4, 2, 7]


def test_probabilities_of_all_images_sum_to_one(model):
    assert total_probability(model.log_prob, all_images(3, 4)) == pytest.approx(1, abs=1e-12)
    torch.manual_seed(1)
    ternary = PixelCNN(levels=3, channels=3, layers=1, reach=1).double()
    assert total_probability(ternary.log_prob, all_images(2, 3, 3)) == pytest.approx(1, abs=1e-12)
    assert total_probability(Plain(*"ABB").log_prob, all_images(3, 4)) == pytest.approx(1, abs=1e-12)


def test_a_wrong_mask_is_no_distribution(model):
    """Type B first lets a pixel see itself; a vertical stack that is not moved down lets a row see itself."""
    assert abs(total_probability(Plain(*"BBB").log_prob, all_images(3, 4)) - 1) > 1e-3

    def peeks(x):
        one_hot = model.one_hot(x)
        unmoved = [a.roll(-1, 2) for a in model.above(one_hot)]
        return -F.cross_entropy(model.along(one_hot, unmoved), x, reduction="none").sum((1, 2))

    assert abs(total_probability(peeks, all_images(3, 4)) - 1) > 1e-4


def test_log_prob_is_the_chain_rule(model):
    x = torch.randint(0, 2, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    total = torch.zeros(5, dtype=torch.float64)
    for r, c in product(range(4), repeat=2):
        blank = x.clone()  # what comes later is thrown away: it must not matter
        blank.view(5, 16)[:, 4 * r + c :] = 0
        total += model(blank).log_softmax(1)[torch.arange(5), x[:, r, c], r, c].detach()
    torch.testing.assert_close(model.log_prob(x).detach(), total)


def test_samples_have_the_models_frequencies(model):
    images = all_images(2, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        p = model.log_prob(images).exp()
    n = 20_000
    drawn = model.sample(torch.zeros(n, 2, 3, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount((drawn.flatten(1) * (2 ** torch.arange(5, -1, -1))).sum(1), minlength=64)
    statistic = ((counts - n * p).square() / (n * p)).sum().item()
    assert statistic < 63 + 5 * math.sqrt(2 * 63)
    uniform = ((counts - n / 64).square() / (n / 64)).sum().item()
    assert uniform > 63 + 20 * math.sqrt(2 * 63)  # the test can tell the model from fair coins


def test_completion_keeps_what_is_given_and_follows_the_conditional(model):
    """From the middle of a row, in an image with more rows than the net looks back over."""
    torch.manual_seed(2)
    x = torch.randint(0, 2, (1, 7, 3))
    drawn = model.sample(x.expand(4000, -1, -1), start=20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn.flatten(1)[:, :20], x.flatten(1)[:, :20].expand(4000, -1))
    p = model(x).softmax(1)[0, 1, 6, 2].item()
    assert abs(drawn[:, 6, 2].double().mean().item() - p) < 4 * math.sqrt(p * (1 - p) / 4000)
    middle = model.sample(x.expand(4000, -1, -1), start=19, generator=torch.Generator().manual_seed(1))
    q = model(x).softmax(1)[0, 1, 6, 1].item()
    assert abs(middle[:, 6, 1].double().mean().item() - q) < 4 * math.sqrt(q * (1 - q) / 4000)


def test_gate():
    a = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(gated(a), torch.tanh(a[:, :3]) * torch.sigmoid(a[:, 3:]))


def test_errors():
    model = PixelCNN(levels=3, channels=2, layers=1, reach=1)
    with pytest.raises(TypeError, match="whole numbers"):
        model(torch.rand(1, 3, 3))
    with pytest.raises(TypeError, match="whole numbers"):
        model(torch.zeros(1, 1, 3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        model(torch.full((1, 3, 3), 3))
    with pytest.raises(ValueError, match="levels=1"):
        PixelCNN(levels=1)
    with pytest.raises(ValueError, match="'A' or 'B'"):
        MaskedConv2d("C", 1, 1, 3)
    with pytest.raises(ValueError, match="odd"):
        MaskedConv2d("A", 1, 1, 4)
