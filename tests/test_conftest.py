"""Under CI=true a skip fails the run; elsewhere it is said loudly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "passes": "def test(): pass",
    "skips": "import pytest\ndef test(): pytest.skip('no browser here')",
    "skips_by_mark": "import pytest\n@pytest.mark.skipif(True, reason='no browser here')\ndef test(): pass",
    "skips_its_file": "import pytest\npytest.importorskip('no_such_module', reason='no browser here')\ndef test(): pass",
    "expected_to_fail": "import pytest\n@pytest.mark.xfail(reason='no browser here')\ndef test(): assert False",
}


def run(folder: Path, *, ci: bool, workers: int) -> tuple[int, str, dict[str, bool]]:
    """Exit code and output of pytest over all of TESTS, and which of them failed."""
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    for name, text in TESTS.items():
        (folder / f"test_{name}.py").write_text(text)
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {})
    options = [
        "-q",
        "-p",
        "xdist",
        "-p",
        "no:cacheprovider",
        f"--rootdir={folder}",
        "-n",
        str(workers),
        "--continue-on-collection-errors",
    ]
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return (
        done.returncode,
        done.stdout,
        {name: f" test_{name}.py" in done.stdout.partition("summary info")[2] for name in TESTS},
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_skip_fails_under_ci(tmp_path: Path, workers: int) -> None:
    code, output, failed = run(tmp_path, ci=True, workers=workers)
    assert code == 1, output
    assert failed == {name: name != "passes" for name in TESTS}, output
    assert (
        output.count("a skip is a failure: no browser here") + output.count("a skip is a failure: Skipped: no browser here")
        >= 4
    )


def test_a_skip_is_said_loudly_elsewhere(tmp_path: Path) -> None:
    code, output, _ = run(tmp_path, ci=False, workers=0)
    assert code == 0, output
    assert "NOT CHECKED" in output and output.count("no browser here") == 3


def test_one_kind_of_skip_is_enough_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest itself lets an expected failure pass, whatever its outcome says."""
    for name in set(TESTS) - {"passes", "expected_to_fail"}:
        monkeypatch.delitem(TESTS, name)
    assert run(tmp_path, ci=True, workers=0)[0] == 1
