"""The tracer behind the rule that a claim's sides share no function of the library, on small sources."""

import pytest

from tools.claim_sides import comparisons

HEAD = """
import torch
from genimg_lib import distributions, losses
from genimg_lib.checks import agree, claim, within_standard_errors
from genimg_lib.distributions import LinearGaussian, kl_diagonal_gaussian as kl, log_normal
x = mu = logvar = torch.zeros(2, 3)
"""
KL = "distributions.kl_diagonal_gaussian"


def shared(*cells: str, check: str = "agree(a, b)") -> set[str]:
    """What both sides of the check share, after the cells have run."""
    (found,) = comparisons([HEAD, *cells, f"with claim('eq-x', wrong='w'):\n    {check}"])
    return {name.removeprefix("genimg_lib.") for name in found.shared}


SAME = {
    "called on both sides": "a, b = kl(mu, logvar), distributions.kl_diagonal_gaussian(mu, logvar)",
    "through variables": "kl = kl(mu, logvar)\nhalf = kl / 2\na = half.sum()\nb = (2 * kl).mean()",
    "through another name": "f = kl\na = f(mu, logvar)\nb = kl(mu, logvar)",
    "through a function": "def f(m):\n    return kl(m, logvar)\na = f(mu)\nb = kl(mu, logvar)",
    "through a function of a function": (
        "def f(m):\n    return kl(m, logvar)\ndef g(m):\n    return f(m) + 1\na = g(mu)\nb = kl(mu, logvar)"
    ),
    "function defined before what it calls": (
        "def g(m):\n    return f(m)\nf = lambda m: kl(m, logvar)\na = g(mu)\nb = kl(mu, logvar)"
    ),
    "as an argument": "a = torch.func.grad(kl)(mu)\nb = kl(mu, logvar)",
    "a notebook function as an argument": (
        "def f(m):\n    return kl(m, logvar)\na = torch.func.vmap(f)(mu)\nb = kl(mu, logvar)"
    ),
    "called inside a notebook function": (
        "def apply(f, *values):\n    return f(*values)\na = apply(kl, mu)\nb = kl(mu, logvar)"
    ),
    "in a loop": "a = 0\nfor m in mu:\n    a += kl(m, logvar)\nb = kl(mu, logvar)",
    "carried by a loop": ("a = t = 0\nfor m in mu:\n    a = a + t\n    t = kl(m, logvar)\nb = kl(mu, logvar)"),
    "in a comprehension": "a = sum(kl(m, logvar) for m in mu)\nb = kl(mu, logvar)",
    "appended": "a = []\na.append(kl(mu, logvar))\nb = kl(mu, logvar)",
    "written into a part": "a = torch.zeros(2)\na[0] = kl(mu, logvar)[0]\nb = kl(mu, logvar)",
    "copied in place": "a = torch.zeros(2)\na.copy_(kl(mu, logvar))\nb = kl(mu, logvar)",
    "in a branch": "a = mu\nif len(mu):\n    a = kl(mu, logvar)\nb = kl(mu, logvar)",
    "in a class": (
        "class Bound:\n    def value(self, m):\n        return kl(m, logvar)\na = Bound().value(mu)\nb = kl(mu, logvar)"
    ),
    "as a default": "def f(m, g=kl):\n    return g(m, logvar)\na = f(mu)\nb = kl(mu, logvar)",
    "through a library function": "a = losses.negative_elbo(x, x, mu, logvar)\nb = kl(mu, logvar)",
    "in an f-string's number": "a = float(f'{kl(mu, logvar)}')\nb = kl(mu, logvar)",
    "walrus": "a = (k := kl(mu, logvar)) * 1\nb = k",
}


@pytest.mark.parametrize("name", SAME)
def test_sees_the_same_function(name: str) -> None:
    assert KL in shared(SAME[name])


DIFFERENT = {
    "another route": "a = kl(mu, logvar)\nb = torch.distributions.kl_divergence(mu, logvar)",
    "same inputs": "a = kl(mu, logvar)\nb = (log_normal(x, mu, logvar) - mu).mean()",
    "variable bound anew": "a = kl(mu, logvar)\nb = a\nb = torch.zeros(2)",
    "unpacked side by side": "a, b = kl(mu, logvar), torch.zeros(2)",
    "same draws": "x, z = LinearGaussian(x, x, x).sample(5)\na = kl(x, z)\nb = x + z",
    "a namesake": "def kl(m, v):\n    return m\na = kl(mu, logvar)\nb = distributions.kl_diagonal_gaussian(mu, x)",
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_lets_other_routes_pass(name: str) -> None:
    assert shared(DIFFERENT[name]) == set()


def test_methods_of_library_objects() -> None:
    model = "model = LinearGaussian(x, x, x)\n"
    assert shared(model + "a = model.log_joint(x, x)\nb = model.log_joint(x, mu)") >= {"distributions.LinearGaussian.log_joint"}
    assert shared(model + "a = model.log_joint(x, x)\nb = log_normal(x, mu, logvar)") == {"distributions.log_normal"}
    assert shared(model + "a = model.posterior(x)[0]\nb = log_normal(x, model.b, logvar)") == set()
    fitted = "model = distributions.fit_linear_gaussian(x, 2)\n"
    assert "distributions.LinearGaussian.posterior" in shared(fitted + "a, b = model.posterior(x)")
    passed = "def f(m):\n    return m.posterior(x)\n" + model
    assert shared(passed + "a = f(model)\nb = model.posterior(x)") == {"distributions.LinearGaussian.posterior"}


def test_getattr_on_a_module_counts_the_module() -> None:
    assert shared(
        "a = getattr(distributions, 'log_normal')(x, mu, mu)\nb = getattr(distributions, 'log_' + 'normal')(x, mu, mu)"
    )


def test_keywords_and_statistics_are_sides_too() -> None:
    cell = "a = kl(mu, logvar)"
    assert shared(cell, check="agree(expected=a, actual=a + 1)") == {KL}
    assert shared(cell, check="within_standard_errors((a.mean(), 0.1), a)") == {KL}
    assert shared(cell, check="agree(mu, logvar, not_=a * 2)") == set()


def test_the_wrong_formula_is_no_side_and_a_helper_may_compare() -> None:
    helper = "def same(p, q):\n    agree(p, q, not_=2 * p)\na = kl(mu, logvar)"
    assert shared(helper, check="same(a, a)") == {KL}
    assert shared(helper, check="same(a, mu)") == set()


def test_labels_and_lines() -> None:
    cell = (
        "with claim('eq-one', wrong=''):\n    agree(x, mu)\nwith claim('eq-two', wrong=''):\n    agree(x, mu)\n    agree(mu, x)"
    )
    assert [comparison.label for comparison in comparisons([HEAD, "%matplotlib inline", cell])] == [
        "eq-one",
        "eq-two",
        "eq-two",
    ]


def test_a_comparison_outside_a_claim_is_an_error() -> None:
    with pytest.raises(ValueError, match="outside"):
        comparisons([HEAD, "agree(x, mu)"])
