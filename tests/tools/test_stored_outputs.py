"""The rules for stored outputs, on text and on pictures that Matplotlib draws."""

import base64
import io
from collections.abc import Callable

import nbformat
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.stored_outputs import Tolerance, cell_problems, output_problems, picture_differences, text_differences, tolerance_of

PLAIN = Tolerance()
TRAINED = Tolerance(rtol=0.1, atol=0.01, stochastic=True)


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("loss 1.2345", "loss 1.2350"),
        ("[ 1.    2.  ]", "[1. 2.0001]"),  # columns may move
        ("0.000", "-0.000"),
        ("0.0", "1e-17"),
        ("error 2.2e-16", "error 5.5e-17"),
        ("x32 has 1e-3", "x32 has 0.001"),
        ("nan inf", "nan inf"),
        ("a\nb\n", "a\nb"),
    ],
)
def test_text_that_agrees(stored: str, new: str) -> None:
    assert text_differences(stored, new, PLAIN) == []


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("loss 1.2345", "loss 1.2385"),
        ("loss 1.2345", "loss -1.2345"),
        ("60000 images", "60001 images"),  # integers are exact
        ("0.00", "0.01"),
        ("0.0", "0.04"),
        ("1.2e-07", "1.4e-07"),
        ("1.0", "nan"),
        ("loss 1.0", "cost 1.0"),
        ("float32", "float64"),
        ("a\nb", "a"),
        ("a", "a\nb"),
        ("1.0 2.0", "1.0"),
        ("1.0 2.0", "2.0 1.0"),
        ("", "Warning"),
    ],
)
def test_text_that_differs(stored: str, new: str) -> None:
    assert text_differences(stored, new, PLAIN) != []


def test_a_stochastic_cell_has_its_own_width_and_the_same_words() -> None:
    assert text_differences("step 100: 1.00, 0.001", "step 105: 1.10, 0.010", TRAINED) == []
    assert text_differences("loss 1.00", "loss 1.12", TRAINED) != []
    assert text_differences("loss 1.00", "cost 1.00", TRAINED) != []


def picture(draw: Callable[[Axes], object]) -> str:
    """A 400 x 300 picture, PNG in base64."""
    figure = Figure(figsize=(4, 3), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    ax.set(xlim=(0, 1), ylim=(0, 240))  # a unit of y is a pixel
    draw(ax)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


X = np.linspace(0, 1, 300)
CURVES: dict[str, Callable[[float], Callable[[Axes], object]]] = {
    "a thin curve": lambda by: lambda ax: ax.plot(X, 120 + 90 * np.sin(9 * X) + by, lw=0.8),
    "a thick pale curve": lambda by: lambda ax: ax.plot(X, 120 + 90 * np.sin(9 * X) + by, lw=4, alpha=0.4),
    "a level line": lambda by: lambda ax: ax.plot([0.4, 0.6], [120 + by, 120 + by], lw=1),
    "one of three curves": lambda by: lambda ax: [ax.plot(X, y + 20 * X) for y in (50, 100 + by, 150)],
    "a dashed grey curve": lambda by: lambda ax: ax.plot(X, 30 + 150 * X**2 + by, "--", color="0.6", lw=1),
    "a scatter": lambda by: lambda ax: ax.scatter(X[::30], 120 + by + 60 * X[::30], s=12),
    "a histogram": lambda by: lambda ax: ax.bar(X[::30], 100 + 50 * X[::30] + by, width=0.07),
}


@pytest.mark.parametrize("name", CURVES)
def test_two_pixels_are_seen_and_a_tenth_of_one_is_not(name: str) -> None:
    stored = picture(CURVES[name](0.0))
    for by in (2.0, -2.0):
        assert picture_differences(stored, picture(CURVES[name](by)), PLAIN) != []
    for by in (0.0, 0.1, -0.1):
        assert picture_differences(stored, picture(CURVES[name](by)), PLAIN) == []


def test_other_changes_of_a_figure_are_seen() -> None:
    def draw(style: str = "-", colour: str = "C0", label: str = "0.2") -> str:
        return picture(lambda ax: (ax.plot(X, 200 * X, style, color=colour), ax.text(0.1, 200, label)))

    for changed in (draw(style="--"), draw(colour="C1"), draw(label="0.7"), draw(label="")):
        assert picture_differences(draw(), changed, PLAIN) != []


def test_an_image_whose_pixels_change_is_seen() -> None:
    glyph = np.zeros((28, 28))
    glyph[5:20, 10:14] = 1
    stored = picture(lambda ax: ax.imshow(glyph, extent=(0, 1, 0, 240), aspect="auto", cmap="gray"))
    moved = picture(lambda ax: ax.imshow(np.roll(glyph, 1, axis=1), extent=(0, 1, 0, 240), aspect="auto", cmap="gray"))
    assert picture_differences(stored, moved, PLAIN) != []
    assert picture_differences(stored, moved, Tolerance(pixels=0.2, stochastic=True)) == []


def test_a_figure_of_another_size_is_seen() -> None:
    small, large = Figure(figsize=(1, 1), dpi=50), Figure(figsize=(1, 1), dpi=51)
    pictures = []
    for figure in (small, large):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        pictures.append(base64.b64encode(buffer.getvalue()).decode())
    assert "50" in picture_differences(pictures[0], pictures[1], PLAIN)[0]


def stored_cell(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell("x", execution_count=1, outputs=[nbformat.v4.new_output("stream", text=text)])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("saved to /home/me/x.png", "path"),
        ("open '/tmp/x'", "path"),
        (r"C:\Users\me", "path"),
        ("<Figure object at 0x7f0102335260>", "address"),
        ("40%|####      | 4/10", "progress"),
        ("12.5 it/s", "progress"),
        ("Wall time: 3", "timing"),
        ("done in 3.2 s", "timing"),
        ("took 12 ms", "timing"),
        ("5 seconds", "timing"),
    ],
)
def test_volatile_text_is_found(text: str, what: str) -> None:
    (fault, *_) = cell_problems(stored_cell(text))
    assert what in fault


@pytest.mark.parametrize(
    "text",
    [
        "within 3 s.e. of 2.0",
        "5 samples, 3 steps, 2 m, 12 sheets",
        "a ratio of 1/3 and a date 1/2/2020",
        "colour 0xff and 0x1F",
        "50 % of the digits",
        "see https://example.org/home/page",
        "nats/pixel",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert cell_problems(stored_cell(text)) == []


def test_counts_must_be_in_order() -> None:
    notebook = nbformat.v4.new_notebook(cells=[stored_cell("a"), stored_cell("b")])
    assert len(output_problems(notebook)) == 1
    notebook.cells[1].execution_count = 2
    assert output_problems(notebook) == []
    notebook.cells[0].execution_count = None
    assert len(output_problems(notebook)) == 1


def test_errors_and_vector_pictures_are_found() -> None:
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    vector = nbformat.v4.new_output("display_data", data={"image/svg+xml": "<svg/>"})
    for output in (error, vector):
        assert len(cell_problems(nbformat.v4.new_code_cell("x", execution_count=1, outputs=[output]))) == 1


def test_tolerance_is_read_from_the_metadata() -> None:
    wishes = {"rtol": 0.2, "pixels": 0.1, "reason": "trained here for a minute"}
    cell = nbformat.v4.new_code_cell("x", metadata={"tags": ["stochastic"], "genimg": wishes})
    assert tolerance_of(cell) == Tolerance(rtol=0.2, pixels=0.1, stochastic=True)
    assert tolerance_of(nbformat.v4.new_code_cell("x")) == PLAIN
    for bad in ({"rtol": 0.7}, {"pixels": -0.1}, {"rtol": "0.1"}, {"digits": 3}, {"reason": "random"}):
        cell.metadata["genimg"] = wishes | bad
        with pytest.raises(ValueError, match=next(iter(bad))):
            tolerance_of(cell)
