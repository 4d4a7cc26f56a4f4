"""A chapter's text form becomes a notebook whose cells keep their ids."""

from pathlib import Path

import nbformat
import pytest

from tools.text_notebook import METADATA, convert

PERCENT = """\
# %% [markdown]
# # Title
#
# Some $x$.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A curve", "name": "fig-a"}}
x = 1

# %%
print(x)

# %%
print(x)
"""
MYST = """\
# Title

Some $x$.

```{code-cell} ipython3
---
tags: [hide-input]
mystnb: {figure: {caption: A curve, name: fig-a}}
---
x = 1
```

```{code-cell} ipython3
print(x)
```

```{code-cell} ipython3
print(x)
```
"""


def converted(tmp_path: Path, text: str, *, form: str = "py") -> nbformat.NotebookNode:
    """Convert, write as the notebook that the next conversion finds, and read back."""
    source, target = tmp_path / f"chapter.{form}", tmp_path / "chapter.ipynb"
    source.write_text(text)
    nbformat.write(convert(source, target), target)
    return nbformat.read(target, as_version=4)


def ids(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.id for cell in notebook.cells]


def test_both_forms_give_the_same_notebook(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    percent, myst = converted(tmp_path / "a", PERCENT), converted(tmp_path / "b", MYST, form="md")
    assert percent == myst
    assert percent.metadata == METADATA
    nbformat.validate(percent)
    assert [cell.cell_type for cell in percent.cells] == ["markdown", "code", "code", "code"]
    assert percent.cells[1].metadata == {"tags": ["hide-input"], "mystnb": {"figure": {"caption": "A curve", "name": "fig-a"}}}
    assert percent.cells[0].source == "# Title\n\nSome $x$."


def test_ids_are_short_unique_and_the_same_every_time(tmp_path: Path) -> None:
    first = ids(converted(tmp_path, PERCENT))
    (tmp_path / "chapter.ipynb").unlink()
    assert ids(converted(tmp_path, PERCENT)) == first
    assert len(set(first)) == 4 and {len(one) for one in first} == {8}


def test_unchanged_cells_keep_their_ids_wherever_they_move(tmp_path: Path) -> None:
    title, figure, print_1, print_2 = ids(converted(tmp_path, PERCENT))
    new = PERCENT.replace("# %% tags", "# %%\nnew = 0\n\n# %% tags")
    after = ids(converted(tmp_path, new))
    assert after[0] == title and after[2:] == [figure, print_1, print_2]
    assert after[1] not in (title, figure, print_1, print_2)


def test_a_changed_cell_takes_the_id_of_the_one_it_replaces(tmp_path: Path) -> None:
    before = ids(converted(tmp_path, PERCENT))
    assert ids(converted(tmp_path, PERCENT.replace("x = 1", "x = 2").replace("Some", "Much"))) == before


def test_a_new_cell_never_gets_an_id_that_an_old_one_keeps(tmp_path: Path) -> None:
    """Change a cell and bring its old text back elsewhere: its hash is the id that the changed cell has kept."""
    converted(tmp_path, PERCENT)
    changed = PERCENT.replace("x = 1", "x = 2")
    converted(tmp_path, changed)
    again = ids(converted(tmp_path, changed + "\n# %%\nx = 1\n"))
    assert len(set(again)) == 5


@pytest.mark.parametrize(("new", "kept"), [("Some $x$.", True), ("x = 1", False)])
def test_outputs_stay_only_with_their_code(tmp_path: Path, new: str, kept: bool) -> None:
    notebook = converted(tmp_path, PERCENT)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    notebook.cells[2].execution_count = 2
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    after = converted(tmp_path, PERCENT.replace(new, new + "1")).cells[2]
    assert (bool(after.outputs), after.execution_count) == ((True, 2) if kept else (False, None))
