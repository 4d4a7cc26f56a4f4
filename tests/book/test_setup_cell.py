"""The setup cell: silent where the library is, helpful where it is not, and installing on the stamped copy."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from tools.setup_cell import SETUP_CELL, is_setup_cell, stamp

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = ROOT / "notebooks" / "vae" / "03_evidence_lower_bound.ipynb"
PREINSTALLED = ("torch", "numpy", "matplotlib", "ipykernel")
CODE_CELLS = 5  # of the chapter: setup, imports, and the first that compute


def notebook(*sources: str) -> dict:
    return {"cells": [{"cell_type": "code", "source": source, "metadata": {}} for source in sources], "metadata": {}}


def test_printed_cell_is_the_constant():
    printed = subprocess.run([sys.executable, ROOT / "tools" / "setup_cell.py"], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == SETUP_CELL
    assert len(SETUP_CELL.splitlines()) <= 15
    compile(SETUP_CELL, "setup", "exec")


def test_stamp_changes_the_setup_cell_only_and_leaves_the_original():
    original = notebook(SETUP_CELL.splitlines(keepends=True), 'REPO, REF = "", ""', "x = 1")
    before = json.dumps(original)
    stamped = stamp(original, "https://github.com/some/book", "v1.2")
    assert json.dumps(original) == before
    assert "REPO, REF = 'https://github.com/some/book', 'v1.2'" in stamped["cells"][0]["source"]
    assert stamped["cells"][1:] == original["cells"][1:]
    again = stamp(stamped, "file:///elsewhere", "main")
    assert again["cells"][0]["source"] == stamp(original, "file:///elsewhere", "main")["cells"][0]["source"]


def test_a_changed_setup_cell_is_none():
    changed = notebook(SETUP_CELL.replace("invalidate_caches()", "pass"))
    assert is_setup_cell(notebook(SETUP_CELL)["cells"][0])
    assert not is_setup_cell(changed["cells"][0])
    with pytest.raises(ValueError, match="no setup cell"):
        stamp(changed, "https://github.com/some/book", "v1.2")


def test_an_address_cannot_escape_its_string():
    stamped = stamp(notebook(SETUP_CELL), 'x"; raise SystemExit #', "main")
    assert "raise SystemExit" not in str(compile(stamped["cells"][0]["source"], "setup", "exec").co_names)


def run_cell(code: str, *, library: str, pip_fails: int = 0) -> subprocess.CompletedProcess:
    """Runs a setup cell in a Python that finds the library, or does not; pip is replaced by an echo of its arguments."""
    fake = f"""
import importlib.util, subprocess, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: {library} if name == "genimg_lib" else found(name, *rest)
def run(command, capture_output):
    print("PIP", *command[1:])
    return subprocess.CompletedProcess(command, {pip_fails}, stderr=b"pip's own words")
subprocess.run = run
"""
    return subprocess.run([sys.executable, "-c", fake + code], capture_output=True, text=True)


def test_does_nothing_where_the_library_is():
    done = run_cell(SETUP_CELL, library="object()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unstamped_says_how_to_install():
    done = run_cell(SETUP_CELL, library="None")
    assert done.returncode == 1
    assert "PIP" not in done.stdout
    assert "ModuleNotFoundError: genimg_lib is missing: run `pip install .` in the book's folder" in done.stderr


def test_stamped_installs_at_the_ref_and_names_torch_and_numpy_as_they_are():
    stamped = stamp(notebook(SETUP_CELL), "file:///somewhere/book.git", "part/two")
    done = run_cell(stamped["cells"][0]["source"], library="None")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["PIP", "-m", "pip", "install"]
    assert "git+file:///somewhere/book.git@part/two" in words
    for name in ("torch", "numpy"):
        assert f"{name}=={importlib.metadata.version(name)}" in words


def test_a_failing_install_shows_what_pip_said():
    stamped = stamp(notebook(SETUP_CELL), "file:///somewhere/book.git", "main")
    done = run_cell(stamped["cells"][0]["source"], library="None", pip_fails=1)
    assert done.returncode == 1
    assert "RuntimeError: pip's own words" in done.stderr


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions that these need, themselves included, as installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return found


def fresh_environment(folder: Path) -> Path:
    """A virtual environment with PREINSTALLED and what they need, as hard links (copies across discs); its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    for name in closure(PREINSTALLED):
        for file in importlib.metadata.distribution(name).files or []:
            source, target = Path(str(file.locate())), site / file
            if ".." in file.parts or source.suffix == ".pyc" or not source.exists() or target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:
                shutil.copy2(source, target)
    return python


def versions(python: Path) -> dict[str, str]:
    """Every distribution that this Python has, by name."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=python.parent, env=environment)
    return json.loads(done.stdout)


def repository(folder: Path) -> str:
    """The address of a git repository whose branch `book` holds the library, and whose main branch does not."""

    def git(*words: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)

    folder.mkdir()
    git("init", "--initial-branch", "main")
    git("commit", "--allow-empty", "-m", "empty")
    git("checkout", "-b", "book")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "genimg_lib", folder / "genimg_lib", ignore=shutil.ignore_patterns("__pycache__"))
    git("add", ".")
    git("commit", "-m", "library")
    git("checkout", "main")
    return folder.as_uri()


@pytest.mark.timeout(600)
def test_a_notebook_alone_in_an_empty_folder_installs_what_it_needs(tmp_path, monkeypatch):
    python = fresh_environment(tmp_path / "environment")
    before = versions(python)
    assert {"torch", "numpy", "matplotlib", "ipykernel"} <= set(before)
    assert not {"genimg_lib", "scipy", "accelerate", "safetensors"} & set(before)

    stamped = stamp(json.loads(CHAPTER.read_text(encoding="utf-8")), repository(tmp_path / "book"), "book")
    codes = [i for i, cell in enumerate(stamped["cells"]) if cell["cell_type"] == "code"]
    stamped["cells"] = stamped["cells"][: codes[CODE_CELLS - 1] + 1]
    alone = tmp_path / "alone"
    alone.mkdir()

    spec = tmp_path / "kernels" / "fresh" / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": command, "display_name": "fresh", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.delenv("PYTHONPATH", raising=False)

    cells = nbformat.reads(json.dumps(stamped), as_version=4)
    NotebookClient(cells, timeout=500, kernel_name="fresh", resources={"metadata": {"path": str(alone)}}).execute()

    after = versions(python)
    assert {"genimg_lib", "scipy", "accelerate", "safetensors"} <= set(after)
    assert {name: after[name] for name in before} == before  # torch, numpy, and everything else that was there
