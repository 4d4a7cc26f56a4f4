"""Mutation score of the modules named in [tool.mutmut]: run mutmut from nothing, print what survived, fail below the bar.

python tools/mutation_score.py [--least 0.9]

A mutant counts as killed if a test failed on it or it ran past its time; survived, without tests, crashed count against us.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path


def score(stats: dict[str, int]) -> float:
    """Killed share of all mutants; ``stats`` is what `mutmut export-cicd-stats` writes. Raises ValueError if there are none."""
    if not stats["total"]:
        raise ValueError("mutmut made no mutants: look at [tool.mutmut] in pyproject.toml")
    return (stats["killed"] + stats["timeout"]) / stats["total"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=0.9, help="smallest share of mutants to kill (default 0.9)")
    least = parser.parse_args().least
    shutil.rmtree("mutants", ignore_errors=True)  # old verdicts do not count
    mutmut = [sys.executable, "-m", "mutmut"]
    with open("mutmut.tmp", "w") as log:  # a spinner, thousands of lines
        ran = subprocess.run([*mutmut, "run", "--max-children", "1"], stdout=log, stderr=subprocess.STDOUT)
    if ran.returncode:
        print(f"mutmut stopped with {ran.returncode}; the end of its log:\n{Path('mutmut.tmp').read_text()[-2000:]}")
        return 1
    Path("mutmut.tmp").unlink()
    subprocess.run([*mutmut, "results"], check=True)  # one line for each mutant that was not killed
    subprocess.run([*mutmut, "export-cicd-stats"], check=True)
    stats = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text())
    reached = score(stats)
    killed = f"{stats['killed']} killed and {stats['timeout']} overran, of {stats['total']}"
    print(f"mutation score {reached:.1%} ({killed}); at least {least:.0%} is asked")
    return 0 if reached >= least else 1


if __name__ == "__main__":
    sys.exit(main())
