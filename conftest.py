"""Shared by all tests: notebooks are compared strictly, and nothing is skipped in silence."""

import os
from collections.abc import Generator
from typing import Any

import pytest

CI = os.environ.get("CI") == "true"


def pytest_configure(config: pytest.Config) -> None:
    """With --nbval, our comparison of outputs; the other tests do not pay for its imports."""
    if config.getoption("nbval", False):
        config.pluginmanager.import_plugin("tools.nbval_extension")


def _fail_if_skipped(report: Any) -> Any:
    """Under CI=true a skipped test (an expected failure too) or a skipped test file counts as failed."""
    if CI and report.skipped:
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", report.longrepr)
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)  # pytest would not count it
        report.longrepr = f"skipped, and with CI=true a skip is a failure: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """After each phase of a test."""
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """After a file is read: `pytest.importorskip` and the like at the top of it."""
    return _fail_if_skipped((yield))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Outside CI: say loudly what was not checked, and why."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("NOT CHECKED: these were skipped", sep="!", red=True, bold=True)
    for report in skipped:
        terminalreporter.line(f"{report.nodeid}: {report.longrepr[-1]}", red=True)
