"""A small book built for real: without an address, with one, and with faults that must fail the build."""

import json
from pathlib import Path

import pytest
from small_book import CHAPTER, CLAIM, EXERCISE, FIGURE, build, html, write

from tools.setup_cell import SETUP_CELL


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = write(tmp_path_factory.mktemp("plain"), CLAIM, EXERCISE, FIGURE)
    done = build(folder)
    assert done.returncode == 0, done.stdout
    return folder


def published_setup_cell(folder: Path) -> str:
    notebook = json.loads((folder / "_build" / "html" / "_sources" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8"))
    return "".join(notebook["cells"][1]["source"])


def test_no_address_no_links_and_an_untouched_setup_cell(plain):
    page = html(plain)
    for word in ("colab", "executablebooks", "github.com", "source-repository-button", "source-issues-button"):
        assert word not in page
    assert published_setup_cell(plain) == SETUP_CELL


def test_the_chapter_number_is_that_of_the_file(plain):
    page = html(plain)
    assert '<span class="section-number">7. </span>A small chapter' in page
    assert '<span class="section-number">7.1. </span>Derive' in page
    assert '<span class="eqno">(7.1)' in page and "(1.1)" not in page
    assert "Exercise 7.1" in page


def test_header_says_what_running_costs_and_offers_the_notebook(plain):
    page = html(plain)
    assert "Runs in 41 s and 870 MB on one CPU thread." in page
    assert 'href="../../_sources/notebooks/vae/07_small.ipynb"' in page


def test_maths_is_typeset_at_build_time(plain):
    page = html(plain)
    assert "<math " in page and "katex-error" not in page and "MathJax" not in page
    static = plain / "_build" / "html" / "_static" / "katex"
    css = (static / "katex.min.css").read_text()
    fonts = sorted(path.name for path in (static / "fonts").iterdir())
    assert len(fonts) == 20 and all(f"fonts/{name}" in css for name in fonts)
    assert css.count("url(") == len(fonts)  # nothing is asked for that is not there


def test_index_lists_claim_and_definition(plain):
    page = html(plain, "book/equations")
    assert "1 claims, 2 comparisons; 1 definitions." in page
    assert "#equation-eq-small" in page and "upside down" in page and "2 exact" in page and "(7.2)" in page


def test_an_interactive_figure_brings_its_script_to_its_page_only(plain):
    assert "interactive/kl-gaussian.js" in html(plain)
    assert 'data-figure="kl-gaussian" role="group" aria-label="two curves and two sliders"' in html(plain)
    assert "interactive/kl-gaussian.js" not in html(plain, "book/equations")


def test_description_is_the_first_plain_sentence(plain):
    sentence = "This sentence says in plain words what the small chapter is about."
    assert f'<meta name="description" content="{sentence}"' in html(plain)


def test_with_an_address_links_and_stamps_point_there(plain):
    for _ in range(2):  # building again changes nothing
        done = build(plain, BOOK_REPO_URL="https://github.com/some/book", BOOK_REPO_BRANCH="v2")
        assert done.returncode == 0, done.stdout
        page = html(plain)
        colab = "https://colab.research.google.com/github/some/book/blob/gh-pages/_sources/notebooks/vae/07_small.ipynb"
        assert f'href="{colab}"' in page
        assert 'href="https://github.com/some/book"' in page and "https://github.com/some/book/issues" in page
        assert "executablebooks" not in page
        assert "REPO, REF = 'https://github.com/some/book', 'v2'" in published_setup_cell(plain)


BAD = "$$x = y$$ (eq-unchecked)\n\n$$\\frac{$$ (def-broken)\n\n$$x$$ (small)"


def test_faults_fail_the_build(tmp_path):
    check = "with claim('eq-nowhere', wrong='x'):\n    agree(1, 1)"
    done = build(write(tmp_path, BAD, check=check))
    assert done.returncode != 0
    assert "equation eq-unchecked is not checked" in done.stdout
    assert "claim('eq-nowhere'): this page has no equation of that label" in done.stdout
    assert "equation label small: expected eq-" in done.stdout
    assert "KaTeX cannot typeset this formula: \\frac{" in done.stdout
