"""The quantiser against a search in NumPy, finite differences and sums by hand; known-wrong variants are caught."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genimg_lib.networks import vq
from genimg_lib.networks.vq import VQVAE, ema_update, nearest_code, perplexity, revive, straight_through, vq_terms

close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE((2, 8, 12), codes=5, code_dim=3, width=4).double()


def test_nearest_is_the_nearest():
    h, book = normal(4, 2, 3, 6), 2 * normal(9, 6, seed=1)
    by_search = np.linalg.norm(h.numpy()[..., None, :] - book.numpy(), axis=-1).argmin(-1)
    assert nearest_code(h, book).tolist() == by_search.tolist()
    largest_product = (h @ book.T).argmax(-1)  # the wrong variant that forgets ‖e‖²
    assert not torch.equal(largest_product, nearest_code(h, book))


def test_the_first_of_equals():
    assert nearest_code(torch.zeros(2, 1), torch.tensor([[1.0], [-1.0], [3.0]])).tolist() == [0, 0]


def test_another_dimension_is_refused():
    message = "h has 3 dimensions, the codebook 4: expected (…, D) and (K, D)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        nearest_code(torch.zeros(2, 3), torch.zeros(5, 4))


def test_straight_through_has_the_value_of_e_and_the_slope_of_h():
    h, e, weight = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_(), normal(4, 3, seed=2)
    out = straight_through(h, e)
    close(out, e)
    (out.square() * weight).sum().backward()
    close(h.grad, 2 * e.detach() * weight)  # at e, not at h
    assert e.grad is None


def test_terms_are_summed_and_each_moves_one_side():
    h, e = normal(4, 2, 3, 5).requires_grad_(), normal(4, 2, 3, 5, seed=1).requires_grad_()
    codebook_term, commitment = vq_terms(h, e)
    by_hand = ((h - e) ** 2).detach().numpy().reshape(4, -1).sum(1)
    close(codebook_term.detach().numpy(), by_hand)
    close(commitment.detach().numpy(), by_hand)
    close(torch.autograd.grad(codebook_term.sum(), [h, e], allow_unused=True), (None, 2 * (e - h).detach()))
    close(torch.autograd.grad(commitment.sum(), [h, e], allow_unused=True), (2 * (h - e).detach(), None))


def test_running_means_weigh_outputs_by_age():
    book, counts, sums = torch.zeros(2, 3).double(), torch.zeros(2).double(), torch.zeros(2, 3).double()
    batches = [normal(7, 3, seed=1), normal(2, 3, seed=2), normal(30, 3, seed=3)]
    assigned = [torch.tensor([0, 1, 0, 0, 1, 1, 1]), torch.tensor([0, 0]), torch.arange(30) % 2]
    for h, indices in zip(batches, assigned, strict=True):
        ema_update(book, counts, sums, h, indices, decay=0.8)
    for k in (0, 1):
        ages = np.concatenate([np.full(len(h), 0.8 ** (2 - t)) for t, h in enumerate(batches)])
        mine = np.concatenate([i.numpy() == k for i in assigned])
        close(book[k].numpy(), np.average(np.concatenate(batches)[mine], axis=0, weights=ages[mine]))


def test_without_memory_it_is_a_step_of_k_means():
    from sklearn.cluster import KMeans

    h, start = normal(200, 2), normal(4, 2, seed=1)
    theirs = KMeans(4, init=start.numpy(), n_init=1, max_iter=1, algorithm="lloyd").fit(h.numpy()).cluster_centers_
    book, indices = start.clone(), nearest_code(h, start)
    ema_update(book, torch.ones(4).double(), start.clone(), h, indices, decay=0.0)
    close(book.numpy(), theirs)


def test_an_entry_never_used_stays():
    book = normal(3, 2)
    before, counts, sums = book.clone(), torch.ones(3).double(), book.clone()
    for _ in range(2000):
        ema_update(book, counts, sums, torch.ones(4, 2).double(), torch.zeros(4, dtype=torch.long), decay=0.9)
    close(book[1:], before[1:])
    close(book[0], torch.ones(2).double())
    assert bool(book.isfinite().all())


def test_revival_moves_the_dead_only():
    torch.manual_seed(0)
    book, h = normal(4, 2), 100 + normal(5, 3, 2, seed=1)
    before, counts = book.clone(), torch.tensor([0.5, 1.0, 7.0, 0.0]).double()
    sums = counts[:, None] * book
    revive(book, counts, sums, h)
    assert torch.equal(book[1:3], before[1:3]) and counts.tolist() == [2.0, 1.0, 7.0, 2.0]
    outputs = h.flatten(0, 1)
    assert all(bool((outputs == book[k]).all(1).any()) for k in (0, 3))
    close(sums, counts[:, None] * book)  # the next running mean starts from the new place


def test_perplexity_is_the_number_of_codes_in_use():
    assert perplexity(torch.tensor([[0, 1], [2, 3]]), 7).item() == pytest.approx(4)
    assert perplexity(torch.zeros(3, 4, dtype=torch.long), 7).item() == pytest.approx(1)
    p = np.array([0.5, 0.25, 0.25])
    assert perplexity(torch.tensor([0, 0, 1, 2]), 3).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_shapes_and_parts():
    model, x = small(), torch.rand(6, 2, 8, 12, dtype=torch.float64)
    logits, h, e, indices = model(x)
    assert logits.shape == x.shape and h.shape == e.shape == (6, 2, 3, 3)
    assert indices.shape == (6, *model.code_shape) and int(indices.max()) < 5
    assert torch.equal(indices, model.indices(x))
    close(e, model.codebook[indices])
    close(logits, model.decode_indices(indices))
    close(logits, model.decode(e))


def test_a_code_sees_its_own_part_of_the_image():
    """One code's receptive field is 10 x 10 pixels: a far corner changes nothing."""
    torch.manual_seed(0)
    model, x = VQVAE((1, 28, 28)).double(), torch.rand(1, 1, 28, 28, dtype=torch.float64)
    changed = x.clone()
    changed[..., 15:, 15:] = 0
    near, far = model.encode(x) - model.encode(changed), (slice(None), slice(0, 3), slice(0, 3))
    assert not near[far].any() and near[:, 4:, 4:].any()


def test_every_part_gets_its_gradient():
    model, x = small(), torch.rand(6, 2, 8, 12, dtype=torch.float64).round()
    logits, h, e, _ = model(x)
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    nll.backward(retain_graph=True)
    assert model.codebook.grad is None
    assert all(bool(p.grad.any()) for part in (model.encoder, model.decoder) for p in part.parameters())
    vq_terms(h, e)[0].sum().backward()
    assert bool(model.codebook.grad.any())


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=re.escape("this VQ-VAE takes images ('B', 2, 8, 12), got (1, 2, 12, 8)")):
        small().encode(torch.zeros(1, 2, 12, 8).double())
    with pytest.raises(ValueError, match=r"image_shape is \(1, 30, 28\): height and width must be multiples of 4"):
        VQVAE((1, 30, 28))


WRONG = {
    "nearest_code": lambda h, book: (h @ book.T).argmax(-1),
    "straight_through": lambda h, e: e + (h - e).detach(),
    "vq_terms": lambda h, e: ((h - e).square().flatten(1).sum(1),) * 2,
    "ema_update": lambda book, counts, sums, h, i, decay=0.99: book.lerp_(h.mean(0).expand_as(book), 1 - decay),
}
CAUGHT_BY = {
    "nearest_code": test_nearest_is_the_nearest,
    "straight_through": test_straight_through_has_the_value_of_e_and_the_slope_of_h,
    "vq_terms": test_terms_are_summed_and_each_moves_one_side,
    "ema_update": test_running_means_weigh_outputs_by_age,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variant_is_caught(name, monkeypatch):
    monkeypatch.setitem(globals(), name, WRONG[name])
    with pytest.raises((AssertionError, RuntimeError)):
        CAUGHT_BY[name]()
    assert getattr(vq, name) is not WRONG[name]
