"""Claims that check themselves.

A labelled equation of the book is computed a second way inside ``with claim("eq-…", wrong="…")``. Each comparison may name
the value that a plausible wrong formula would give (``not_``), which the same comparison must reject.

With ``CHECKS_PERTURB=1`` in the environment the actual side of every comparison is moved (by 1 % of its scale; of a
statistical comparison, by ten standard errors), and every claim must then fail: a check that cannot fail is none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MOVED_BY = 0.01  # of the scale of the actual side, under CHECKS_PERTURB
MOVED_BY_STANDARD_ERRORS = 10.0


class ClaimFailed(AssertionError):
    """A claim's check did not hold; the message carries both numbers."""


@dataclass
class _Claim:
    failures: list[str] = field(default_factory=list)
    comparisons: int = 0
    rejected: int = 0


_open_claim: _Claim | None = None


def _perturbed() -> bool:
    return os.environ.get("CHECKS_PERTURB", "") not in ("", "0")


@contextmanager
def claim(label: str, *, wrong: str) -> Iterator[None]:
    """Check the equation ``label``; ``wrong`` says in words which plausible wrong formula the same check rejects.

    The block holds one or more comparisons (`agree`, `within_standard_errors`), at least one of them with ``not_``. Prints one
    stable line if all hold. Under CHECKS_PERTURB the claim fails only if *every* comparison noticed that it was moved.

    Raises ClaimFailed if a comparison fails; RuntimeError if a claim is opened inside another; ValueError if it compares
    nothing, rejects nothing, or its label is not of the form ``eq-…``.
    """
    global _open_claim
    if not label.startswith("eq-"):
        raise ValueError(f"claim({label!r}): expected the label of an equation, 'eq-…'")
    if _open_claim is not None:
        raise RuntimeError(f"claim({label!r}) was opened inside another claim; close that one first")
    _open_claim = current = _Claim()
    try:
        yield
    finally:
        _open_claim = None
    if current.comparisons == 0:
        raise ValueError(f"claim({label!r}) compares nothing: call agree or within_standard_errors inside it")
    if current.rejected == 0:
        raise ValueError(f"claim({label!r}) rejects nothing: give not_=<the value of the wrong formula> to a comparison")
    missed = current.comparisons - len(current.failures) if _perturbed() else 0
    if missed:
        print(f"claim {label}: {missed} of {current.comparisons} comparisons did not notice that they were moved")
    elif current.failures:
        raise ClaimFailed(f"claim {label} failed\n" + "\n".join(current.failures))
    else:
        ways = "1 comparison agrees" if current.comparisons == 1 else f"{current.comparisons} comparisons agree"
        print(f"✓ {label}: {ways}; rejected: {wrong}")


def _record(failure: str | None, rejects: bool) -> None:
    if _open_claim is None:
        raise RuntimeError("compare inside a claim: with claim('eq-…', wrong='…'): …")
    _open_claim.comparisons += 1
    _open_claim.rejected += rejects
    if failure:
        _open_claim.failures.append(failure)


def _as_tensor(value: Any, name: str) -> Tensor:
    tensor = torch.as_tensor(value).detach().double().cpu()
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty, so nothing would be compared")
    return tensor


def _same(actual: Tensor, expected: Tensor, rtol: float, atol: float) -> bool:
    difference = (actual - expected).abs().max().item()
    return difference <= atol + rtol * expected.abs().max().item()  # NaN compares false


def agree(actual: Any, expected: Any, *, not_: Any = None, rtol: float = 1e-6, atol: float = 0.0) -> None:
    """The two sides are equal: max|actual - expected| <= atol + rtol · max|expected|; and ``not_`` is not.

    actual, expected, not_: numbers or tensors of one shape (no broadcasting). The tolerance is relative to the largest entry,
    so that one entry near zero asks for no miracle; 1e-6 suits float64.

    Raises ValueError for different shapes, nothing to compare, or a tolerance too wide for the perturbation that it
    must notice, or a not_ that is no number.
    """
    a, b = _as_tensor(actual, "actual"), _as_tensor(expected, "expected")
    if a.shape != b.shape:
        raise ValueError(f"agree compares one shape with itself, got {tuple(a.shape)} and {tuple(b.shape)}")
    scale = max(a.abs().max().item(), b.abs().max().item())
    if atol + rtol * scale >= MOVED_BY / 3 * scale and scale > 0:
        raise ValueError(f"tolerance {atol + rtol * scale:.3g} is too wide to notice a change of 1 % of {scale:.3g}")
    if _perturbed():
        a = a + MOVED_BY * (a.abs().max().item() or 1.0)
    failure = None
    if not _same(a, b, rtol, atol):
        failure = f"  agree: {_show(a)} against {_show(b)}, max difference {(a - b).abs().max().item():.6g}"
    if not_ is not None:
        w = _as_tensor(not_, "not_").expand_as(b)
        if not bool(w.isfinite().all()):
            raise ValueError(f"not_ is {_show(w)}: a wrong formula that gives no number is rejected by anything")
        if _same(_as_tensor(actual, "actual"), w, rtol, atol):
            failure = (failure or "") + f"  agree: the wrong value {_show(w)} would pass too"
    _record(failure, not_ is not None)


def within_standard_errors(estimate: Any, expected: float, *, not_: float | None = None, k: float = 4.0) -> None:
    """A Monte Carlo mean lies within k standard errors of ``expected``, and further than that from ``not_``.

    estimate: independent samples (N,), N >= 30, whose mean is compared; or the pair (mean, standard error).
    expected, not_: numbers. With ``not_`` the standard error must be at most a quarter of the gap between the two: a blunter
    check could not tell them apart.

    Raises ValueError for too few samples, a standard error that is not positive and finite, or a not_ that is no number.
    """
    if isinstance(estimate, tuple):
        mean, standard_error = float(estimate[0]), float(estimate[1])
    else:
        samples = _as_tensor(estimate, "estimate").flatten()
        if len(samples) < 30:
            raise ValueError(f"{len(samples)} samples give no trustworthy standard error; use at least 30")
        mean, standard_error = samples.mean().item(), samples.std().item() / math.sqrt(len(samples))
    if not (0 < standard_error < math.inf):
        raise ValueError(f"the standard error is {standard_error}; expected a positive finite number")
    target = float(expected)
    moved = mean + MOVED_BY_STANDARD_ERRORS * standard_error if _perturbed() else mean
    if not_ is not None and not math.isfinite(not_):
        raise ValueError(f"not_ is {not_}: a wrong formula that gives no number is rejected by anything")
    problems = []
    if not abs(moved - target) <= k * standard_error:
        problems.append(f"  within_standard_errors: {moved:.6g} ± {standard_error:.2g} against {target:.6g}")
    if not_ is not None:
        gap = abs(float(not_) - target)
        if not standard_error <= gap / 4:
            problems.append(f"  too blunt: standard error {standard_error:.2g}, gap to the wrong value {gap:.2g}; sample more")
        elif abs(mean - float(not_)) <= k * standard_error:
            problems.append(f"  the wrong value {float(not_):.6g} is within {k:g} standard errors too")
    _record("\n".join(problems) or None, not_ is not None)


def _show(tensor: Tensor) -> str:
    flat = tensor.flatten()
    numbers = ", ".join(f"{value:.8g}" for value in flat[:4].tolist())
    return numbers if len(flat) <= 4 else f"[{numbers}, … {len(flat)} numbers]"
