"""gan_step against one step worked by hand, the chapter's body, and wrong versions that leak from one player to the other."""

import copy
from pathlib import Path

import nbformat
import pytest
import torch
from torch import Tensor, nn

from genimg_lib import losses, training_gan

ROOT = Path(__file__).resolve().parents[2]
close = torch.testing.assert_close


def logistic_d(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.logistic_d_loss(real_logits=D(x), fake_logits=D(fake))


def nonsaturating_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.nonsaturating_g_loss(D(fake))


def relativistic_g(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    return losses.relativistic_g_loss(real_logits=D(x), fake_logits=D(fake))


LINES = {"d_loss": logistic_d, "g_loss": nonsaturating_g}


def players(seed: int = 0):
    torch.manual_seed(seed)
    G = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    D = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return G, D, torch.optim.Adam(G.parameters(), 0.01), torch.optim.Adam(D.parameters(), 0.01)


def noise(seed: int = 1):
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(5, 2, generator=rng, dtype=torch.float64)


def real() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def weights(*nets: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for net in nets for weight in net.parameters()]


def in_the_chapter():
    """The chapter's own gan_step, from its notebook."""
    notebook = nbformat.read(ROOT / "notebooks/gan/06_minimax_loss.ipynb", as_version=4)
    (source,) = [cell.source for cell in notebook.cells if cell.source.startswith("def gan_step(")]
    scope = {"torch": torch}
    exec(source, scope)
    return scope["gan_step"]


def one_step_by_hand() -> None:
    """D moves against a batch of fakes, then G against the D that moved, on fresh noise."""
    G, D, opt_G, opt_D = players()
    first, second = (lambda draw: (draw(), draw()))(noise())
    expected_G, expected_D = copy.deepcopy((G, D))
    for net, loss_of in [
        (expected_D, lambda: logistic_d(expected_D, real(), G(first).detach())),
        (expected_G, lambda: nonsaturating_g(expected_D, real(), expected_G(second))),
    ]:
        slopes = torch.autograd.grad(loss_of(), list(net.parameters()))
        with torch.no_grad():
            for weight, slope in zip(net.parameters(), slopes, strict=True):
                weight -= 0.01 * slope / (slope.abs() + 1e-8)  # Adam's first step
    training_gan.gan_step(G, D, opt_G, opt_D, real(), noise(), **LINES)
    close(weights(G, D), weights(expected_G, expected_D))


def nothing_leaks() -> None:
    """With zero_grad switched off, a mark in the gradients shows whose step reached whom."""
    G, D, opt_G, opt_D = players()
    opt_G.zero_grad = opt_D.zero_grad = lambda: None
    for weight in [*G.parameters(), *D.parameters()]:
        weight.grad = torch.full_like(weight, 7.0)
    after_d = []

    def g_loss(D: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
        after_d.extend(weight.grad.clone() for weight in [*G.parameters(), *D.parameters()])
        return relativistic_g(D, x, fake)

    training_gan.gan_step(G, D, opt_G, opt_D, real(), noise(), d_loss=logistic_d, g_loss=g_loss)
    count = len(list(G.parameters()))
    assert all((grad == 7).all() for grad in after_d[:count]), "D's step reached G"
    assert all((grad != 7).any() for grad in after_d[count:])
    assert all((w.grad == grad).all() for w, grad in zip(D.parameters(), after_d[count:], strict=True)), "G's step reached D"
    assert all((weight.grad != 7).any() for weight in G.parameters())
    assert all(weight.requires_grad for weight in D.parameters())


def losses_come_back_detached() -> None:
    loss_D, loss_G = training_gan.gan_step(*players(), real(), noise(), **LINES)
    assert loss_D.shape == loss_G.shape == () and not loss_D.requires_grad and not loss_G.requires_grad
    G, D, *_ = players()
    close(loss_D, logistic_d(D, real(), G(noise()())).detach())


def test_equals_the_chapters_body() -> None:
    ours, theirs = players(3), players(3)
    draw_ours, draw_theirs = noise(), noise()
    for _ in range(5):
        at_ours = training_gan.gan_step(*ours, real(), draw_ours, **LINES)
        at_theirs = in_the_chapter()(*theirs, real(), draw_theirs, **LINES)
        close(at_ours, at_theirs, rtol=0, atol=0)
    close(weights(*ours[:2]), weights(*theirs[:2]), rtol=0, atol=0)


ORACLES = [one_step_by_hand, nothing_leaks, losses_come_back_detached]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.__name__)
def test_oracle(oracle) -> None:
    oracle()


def variant(*, graph=False, frozen=True, same_noise=False, d_twice=False, g_first=False, zero=True):
    """The step with one thing wrong, written out anew."""

    def step(G, D, opt_G, opt_D, x, sample_z, *, d_loss, g_loss):
        z = sample_z()
        fake = G(z) if graph else G(z).detach()

        def update_d():
            loss = d_loss(D, x, fake)
            if zero:
                opt_D.zero_grad()
            loss.backward()
            opt_D.step()
            return loss

        def update_g():
            D.requires_grad_(not frozen)
            loss = g_loss(D, x, G(z if same_noise else sample_z()))
            opt_G.zero_grad()
            loss.backward()
            opt_G.step()
            D.requires_grad_(True)
            return loss

        if g_first:
            loss_G = update_g()
            return update_d().detach(), loss_G.detach()
        loss_D = update_d()
        if d_twice:
            update_d()
        return loss_D.detach(), update_g().detach()

    return step


# A leak alone is wiped by the next zero_grad: only the oracle that looks at the gradients sees it.
WRONG = {
    "fakes with their graph": (variant(graph=True), nothing_leaks),
    "D not frozen": (variant(frozen=False), nothing_leaks),
    "the same noise twice": (variant(same_noise=True), one_step_by_hand),
    "D steps twice": (variant(d_twice=True), one_step_by_hand),
    "G first": (variant(g_first=True), one_step_by_hand),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_version_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    step, oracle = WRONG[name]
    monkeypatch.setattr(training_gan, "gan_step", step)
    with pytest.raises(AssertionError):
        oracle()


def test_the_right_one_written_anew_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_gan, "gan_step", variant())
    for oracle in ORACLES:
        oracle()


def test_frozen_gives_back_what_was_frozen_before() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    with pytest.raises(KeyError), training_gan.frozen(net):
        assert not net.weight.requires_grad
        raise KeyError
    assert net.weight.requires_grad and not net.bias.requires_grad


def test_backward_is_the_callers() -> None:
    seen: list[Tensor] = []

    def backward(loss: Tensor) -> None:
        seen.append(loss)
        loss.backward()

    at = training_gan.gan_step(*players(), real(), noise(), **LINES, backward=backward)
    close(tuple(loss.detach() for loss in seen), at)
