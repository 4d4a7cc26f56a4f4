"""Turn a text file (jupytext py:percent or MyST markdown) into a notebook, keeping the ids of its cells.

    python tools/text_notebook.py chapter.md notebooks/vae/03_evidence_lower_bound.ipynb

A cell whose kind and text are unchanged keeps its id, a changed cell takes the id of the cell it replaces, and a new
cell gets an id made from its text. Stored outputs stay only if no code changed; otherwise run `make execute NB=...`.
"""

import argparse
import difflib
import hashlib
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def convert(source: Path, target: Path) -> NotebookNode:
    """The notebook that `source` describes, with the ids, and if the code is the same the outputs, of `target`."""
    new = jupytext.read(source)
    old = nbformat.read(target, as_version=4) if target.exists() else nbformat.v4.new_notebook()
    new.metadata, new.nbformat, new.nbformat_minor = nbformat.from_dict(METADATA), 4, 5
    assign_ids(new.cells, old.cells)
    for cell in new.cells:
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's own note, of the text form
    new_code, old_code = ([cell for cell in nb.cells if cell.cell_type == "code"] for nb in (new, old))
    if [cell.source for cell in new_code] == [cell.source for cell in old_code]:
        for cell, before in zip(new_code, old_code, strict=True):
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    return new


def assign_ids(new: list[NotebookNode], old: list[NotebookNode]) -> None:
    """Give each cell of `new` the id of its counterpart in `old`: by text, then by place among the cells between."""
    after, before = ([(cell.cell_type, cell.source) for cell in cells] for cells in (new, old))
    ids: dict[int, str] = {}
    for _, i1, i2, j1, j2 in difflib.SequenceMatcher(None, after, before, autojunk=False).get_opcodes():
        for i, j in zip(range(i1, i2), range(j1, j2), strict=False):
            if new[i].cell_type == old[j].cell_type:
                ids[i] = old[j].id
    taken = set(ids.values())
    for i, cell in enumerate(new):
        cell.id = ids.get(i) or _fresh_id(cell, taken)


def _fresh_id(cell: NotebookNode, taken: set[str]) -> str:
    """Eight hexadecimal digits of the SHA-256 of the cell's text, other than those `taken`, which it joins."""
    for attempt in range(1000):
        digest = hashlib.sha256(f"{attempt}\0{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:8]
        if digest not in taken:
            taken.add(digest)
            return digest
    raise ValueError(f"no free id for the cell {cell.source[:60]!r}: more than 1,000 cells have this same text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="text file, .py (percent) or .md (MyST)")
    parser.add_argument("target", type=Path, help="the notebook to write, .ipynb")
    options = parser.parse_args()
    notebook = convert(options.source, options.target)
    nbformat.validate(notebook)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, options.target)


if __name__ == "__main__":
    main()
