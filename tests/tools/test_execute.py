"""`make execute`: outputs and measurements are stored together, or nothing is."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tools.execute import execute, notebook_paths, source_hash, write_atomically


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "notebooks" / "part").mkdir(parents=True)
    return tmp_path


def write(root: Path, *sources: str, name: str = "01_first") -> Path:
    path = root / "notebooks" / "part" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)
    return path


def run(root: Path, path: Path) -> dict:
    return execute(path, running_times=root / "book" / "running_times.json", root=root)


def test_stores_outputs_and_measures(root: Path) -> None:
    path = write(
        root,
        "import os, time; from pathlib import Path\nblock = bytearray(200_000_000)\ntime.sleep(5)",
        "start = time.process_time()\nwhile time.process_time() < start + 2: pass",
        "print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'], os.environ['PYTHONHASHSEED'], Path.cwd().name)",
        "'first'\n'second'",
    )
    entry = run(root, path)
    assert 2 <= entry["seconds"] <= 5, "what it computed, not what it slept"
    assert 200 <= entry["peak_mb"] <= 500
    assert entry["threads"] == 1 and entry["hardware"]
    stored = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in stored.cells] == [1, 2, 3, 4]
    assert stored.cells[2].outputs[0].text == "1 1 0 part\n"
    assert stored.cells[3].outputs[0].data["text/plain"] == "'second'"
    assert entry["source_hash"] == source_hash(stored)
    assert json.loads((root / "book" / "running_times.json").read_text()) == {"notebooks/part/01_first.ipynb": entry}
    assert all(cell.metadata == {} for cell in stored.cells) and set(stored.metadata.language_info) == {"name"}


def test_memory_of_child_processes_counts(root: Path) -> None:
    child = "import time; block = bytearray(150_000_000); time.sleep(2)"
    path = write(root, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}]);")
    assert run(root, path)["peak_mb"] >= 200


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("1 / 0", CellExecutionError),
        ("import warnings; warnings.warn('look')", ValueError),
        ("print(object())", ValueError),
        ("raise SystemExit('stop')", CellExecutionError),
    ],
)
def test_a_bad_cell_leaves_everything_as_it_was(root: Path, bad: str, error: type[Exception]) -> None:
    path = write(root, "print(1)", bad)
    times = root / "book" / "running_times.json"
    write_atomically(times, '{"other": {}}')
    before = path.read_bytes()
    with pytest.raises(error):
        run(root, path)
    assert path.read_bytes() == before and times.read_text() == '{"other": {}}'
    assert {entry.name for entry in root.rglob("*") if entry.is_file()} == {"01_first.ipynb", "running_times.json"}


def test_a_notebook_outside_the_repository_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ValueError, match="outside"):
        execute(write(root, "1"), root=tmp_path_factory.mktemp("elsewhere"))


def test_the_hash_is_of_the_code_only() -> None:
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    one = nbformat.v4.new_notebook(cells=[code("x = 1"), text("a")])
    assert source_hash(one) == source_hash(nbformat.v4.new_notebook(cells=[text("b"), code("x = 1", execution_count=3)]))
    assert source_hash(one) != source_hash(nbformat.v4.new_notebook(cells=[code("x = 2"), text("a")]))
    assert source_hash(one) != source_hash(nbformat.v4.new_notebook(cells=[code("x ="), code(" 1")]))


def test_hidden_copies_are_no_notebooks(root: Path) -> None:
    path = write(root, "1")
    hidden = path.parent / ".ipynb_checkpoints" / "01_first-checkpoint.ipynb"
    hidden.parent.mkdir()
    hidden.write_bytes(path.read_bytes())
    assert notebook_paths(root) == [path]


def test_a_half_written_file_never_has_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
