"""Attention against torch's own, conditional BatchNorm by hand, the projection from two labels, the truncated normal's law."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from genimg_lib.networks.biggan import (
    BigDiscriminator,
    BigGenerator,
    BlockDown,
    BlockUp,
    SelfAttention,
    SharedBatchNorm2d,
    truncated_normal,
)


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scrambled(net):
    """The net in float64 with every parameter moved, so that zeros at the start hide nothing."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in net.double().parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def test_attention_is_torchs_own_with_scale_1():
    layer, h = scrambled(SelfAttention(16)), draw(3, 16, 4, 5)
    q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (layer.query, layer.key, layer.value))  # (B, HW, channels)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(layer(h), h + layer.gamma * layer.out(mixed))
    usual = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, (4, 5))  # divided by √2
    assert (layer(h) - h - layer.gamma * layer.out(usual)).abs().max() > 1e-3
    backwards = F.scaled_dot_product_attention(k, q, v, scale=1.0).transpose(1, 2).unflatten(2, (4, 5))
    assert (layer(h) - h - layer.gamma * layer.out(backwards)).abs().max() > 1e-3
    torch.testing.assert_close(layer.weights(h).sum(2), torch.ones(3, 20, dtype=torch.float64))


def test_attention_starts_as_nothing_and_is_learned_through_gamma_first():
    torch.manual_seed(0)
    layer, h = SelfAttention(16), torch.randn(2, 16, 4, 4)
    assert torch.equal(layer(h), h)
    layer(h).square().sum().backward()
    assert layer.gamma.grad.abs() > 0 and layer.query.weight.grad.abs().max() == 0


def test_attention_moves_with_a_permutation_of_the_places():
    layer, h = scrambled(SelfAttention(8)), draw(2, 8, 3, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = h.flatten(2)[:, :, order].unflatten(2, (3, 3))
    torch.testing.assert_close(layer(moved), layer(h).flatten(2)[:, :, order].unflatten(2, (3, 3)))


def test_conditional_norm_by_hand_and_at_condition_0():
    norm, h, c = scrambled(SharedBatchNorm2d(3, 4)), draw(6, 3, 2, 2), draw(6, 4, seed=3)
    mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), correction=0, keepdim=True)
    scale, shift = (c @ layer.weight.T for layer in (norm.gamma, norm.beta))
    expected = (1 + scale)[:, :, None, None] * (h - mean) / (var + 1e-5).sqrt() + shift[:, :, None, None]
    torch.testing.assert_close(norm(h, c), expected)
    torch.testing.assert_close(norm(h, 0 * c), F.batch_norm(h, None, None, training=True))
    assert (norm(h, c) - (expected - F.batch_norm(h, None, None, training=True))).abs().max() > 0.1, "γ without the 1"


@pytest.mark.parametrize("residual", [True, False])
def test_blocks_by_hand(residual):
    up, h, c = scrambled(BlockUp(4, 3, 5, residual)), draw(6, 4, 4, 4), draw(6, 5, seed=3)

    def doubled(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    new = up.conv2(F.relu(up.norm2(up.conv1(doubled(F.relu(up.norm1(h, c)))), c)))
    torch.testing.assert_close(up(h, c), new + up.skip(doubled(h)) if residual else new)
    down, pool = scrambled(BlockDown(4, 3, residual=residual)), nn.AvgPool2d(2)
    new = pool(down.conv2(F.relu(down.conv1(F.relu(h)))))
    torch.testing.assert_close(down(h), new + pool(down.skip(h)) if residual else new)
    keeps = BlockDown(3, 5, down=False, residual=residual).double()
    x = -draw(2, 3, 4, 4).abs()  # an image's dark half must not be thrown away by a ReLU
    assert keeps(x).shape == (2, 5, 4, 4) and (keeps(x) - keeps(2 * x)).abs().max() > 1e-3


@pytest.mark.parametrize("size", [16, 32])
def test_shapes_and_where_attention_sits(size, monkeypatch):
    torch.manual_seed(0)
    seen = []
    forward = SelfAttention.forward
    monkeypatch.setattr(SelfAttention, "forward", lambda self, h: seen.append(tuple(h.shape)) or forward(self, h))
    latent = 24
    G, D = BigGenerator(latent_dim=latent, width=8, size=size), BigDiscriminator(width=8, size=size)
    x = G(torch.randn(4, latent), torch.tensor([0, 1, 2, 9]))
    assert x.shape == (4, 3, size, size) and x.abs().max() <= 1 and D(x, torch.tensor([0, 1, 2, 9])).shape == (4,)
    assert len(seen) == 2 and all(shape[2:] == (8, 8) for shape in seen)
    plain = BigGenerator(latent_dim=latent, width=8, size=size, attention=False, residual=False)
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in G.parameters())
    assert plain(torch.randn(2, latent), torch.tensor([3, 4])).shape == (2, 3, size, size)


def test_each_chunk_of_z_reaches_its_own_block():
    """Later chunks leave earlier maps alone, and all chunks and the label matter."""
    G = scrambled(BigGenerator(latent_dim=12, width=8)).eval()
    z, y, maps = draw(1, 12), torch.tensor([3]), []
    for block in G.blocks:
        block.register_forward_hook(lambda block, given, out: maps.append(out.detach()))

    def run(z, y):
        maps.clear()
        G(z, y)
        return list(maps)

    before = run(z, y)
    changed = {}
    for part in range(3):
        other = z.clone()
        other[:, 4 * part : 4 * part + 4] += 1
        changed[part] = [bool((a - b).abs().max() > 1e-6) for a, b in zip(before, run(other, y), strict=True)]
    assert changed == {0: [True, True], 1: [True, True], 2: [False, True]}
    assert all((a - b).abs().max() > 1e-6 for a, b in zip(before, run(z, torch.tensor([4])), strict=True))


def test_two_labels_differ_by_the_projection():
    D = scrambled(BigDiscriminator(width=8, spectral=False))
    x, y = draw(5, 3, 16, 16), torch.arange(5)
    h = x
    for block in D.blocks:
        h = block(h)
        h = D.attention(h) if h.shape[-1] == 8 else h
    phi = F.relu(h).sum((2, 3))
    difference = torch.einsum("bf,bf->b", D.embed.weight[y + 1] - D.embed.weight[y], phi)
    torch.testing.assert_close(D(x, y + 1) - D(x, y), difference)
    assert (difference / 16 - (D(x, y + 1) - D(x, y))).abs().max() > 0.1, "a mean over places, not the sum"


def test_every_weight_of_the_discriminator_has_norm_1():
    torch.manual_seed(0)
    D = BigDiscriminator(width=8)
    with torch.no_grad():
        for parameter in D.parameters():
            parameter.mul_(3)
    for _ in range(200):
        D(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
    layers = [layer for layer in D.modules() if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding))]
    norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers]
    assert len(layers) == 3 * 3 + 4 + 2 and norms == pytest.approx([1.0] * len(norms), rel=1e-3)
    free = BigDiscriminator(width=8, spectral=False)
    assert all(not hasattr(layer, "parametrizations") for layer in free.modules())


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
def test_truncated_normal_has_its_law(threshold):
    z = truncated_normal((200, 200), threshold, torch.Generator().manual_seed(0)).double().flatten()
    law = stats.truncnorm(-threshold, threshold)
    assert z.abs().max() <= threshold
    assert stats.kstest(z.numpy(), law.cdf).pvalue > 1e-3
    density, mass = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi), math.erf(threshold / math.sqrt(2))
    variance = 1 - 2 * threshold * density / mass
    assert variance == pytest.approx(law.var())
    error = (z.square().std() / len(z) ** 0.5).item()
    assert abs(z.square().mean().item() - variance) < 4 * error
    clipped = torch.randn(40_000, generator=torch.Generator().manual_seed(0)).double().clamp(-threshold, threshold)
    assert abs(clipped.square().mean().item() - variance) > 20 * error, "cut off: too much at the edge"


def test_truncated_normal_without_a_threshold_is_the_plain_stream():
    plain = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))
    assert torch.equal(truncated_normal((3, 4), math.inf, torch.Generator().manual_seed(7)), plain)
    for threshold in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected a positive number"):
            truncated_normal((2,), threshold)


def test_wrong_settings_and_inputs_say_so():
    with pytest.raises(ValueError, match=r"size=28: expected a side of 16 or 32"):
        BigGenerator(size=28)
    with pytest.raises(ValueError, match=r"latent_dim=50: expected a multiple of 3"):
        BigGenerator(latent_dim=50)
    G, D = BigGenerator(latent_dim=6, width=8), BigDiscriminator(width=8)
    with pytest.raises(ValueError, match=r"takes z \('B', 6\), got \(2, 5\)"):
        G(torch.randn(2, 5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels span 0 to 10: expected 0 to 9"):
        G(torch.randn(2, 6), torch.tensor([0, 10]))
    with pytest.raises(ValueError, match=r"takes images \('B', 3, 16, 16\), got \(2, 1, 16, 16\)"):
        D(torch.randn(2, 1, 16, 16), torch.tensor([0, 1]))
