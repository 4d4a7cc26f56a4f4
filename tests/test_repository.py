"""Ground rules for every file that git keeps: no machine's paths, nothing large, nothing long."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Left-bounded, so that an address such as https://example.org/home/ is no path; "me" stands for nobody in an example.
MACHINE_PATH = re.compile(r"(?<![\w.:/~<-])/(?:(?:home|Users)/(?!me\b)|root/|work/|private/)[\w.-]+|\b[A-Z]:\\\\?Users\\")
# Files whose subject is such paths: the patterns that find them, and examples for their tests.
ABOUT_PATHS = {"tests/test_repository.py", "tests/tools/test_stored_outputs.py", "tools/stored_outputs.py"}
BINARY = {".png", ".safetensors", ".npz", ".ico", ".woff2", ".jpg", ".gz"}


def tracked() -> list[Path]:
    """What git tracks or would track, in order."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(ROOT / name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


FILES = tracked()


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_files() -> None:
    assert {"README.md", "pyproject.toml", "_toc.yml", "genimg_lib/checks.py"} <= {name(path) for path in FILES}


def test_no_absolute_paths_of_a_machine() -> None:
    found = []
    for path in FILES:
        if path.suffix in BINARY or name(path) in ABOUT_PATHS:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{name(path)}:{number}: {match[0]}" for match in MACHINE_PATH.finditer(line)]
    assert found == []


@pytest.mark.parametrize("text", ["see /home/ann/x", "'/private/out.png'", "C:\\Users\\me", 'File "/root/a.py"'])
def test_the_pattern_finds_paths(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize(
    "text", ["https://example.org/home/page", "book/tmp/x", "and/or", "~/work/book", "<a href='../opt/x'>"]
)
def test_the_pattern_leaves_other_text_alone(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_notebooks_are_small() -> None:
    sizes = {name(path): path.stat().st_size for path in FILES if path.suffix == ".ipynb"}
    assert {path: size for path, size in sizes.items() if size > 600_000} == {}


def test_weights_are_small() -> None:
    sizes = {name(path): path.stat().st_size for path in FILES if path.suffix == ".safetensors"}
    assert {path: size for path, size in sizes.items() if size > 1_000_000} == {}
    assert sum(sizes.values()) <= 12_000_000


def test_every_weight_file_has_its_provenance() -> None:
    weights = {path for path in FILES if path.suffix == ".safetensors"}
    assert {name(path) for path in weights if path.with_suffix(".json") not in FILES} == set()


def test_no_other_file_is_large() -> None:
    large = {name(path): path.stat().st_size for path in FILES if path.stat().st_size > 1_000_000}
    assert large == {}


def test_the_library_stays_small() -> None:
    lines = {
        name(path): len(path.read_text().splitlines())
        for path in FILES
        if name(path).startswith("genimg_lib/") and path.suffix == ".py"
    }
    assert {path: count for path, count in lines.items() if count > 260} == {}, "about 250 lines a file"
    assert sum(lines.values()) <= 4_600  # 2,500 for the foundation; more chapters, more library


def test_every_notebook_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"^\s*- file:\s*(notebooks/\S+)", (ROOT / "_toc.yml").read_text(), re.M))
    stored = {name(path.with_suffix("")) for path in FILES if path.suffix == ".ipynb" and name(path).startswith("notebooks/")}
    assert listed == stored
