"""Every page of the built site in a browser, and what a reader does with it."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from built_site import SITE, pages

# What the page says it holds, seen by the browser. Each returns a list of offenders, so a failure names them.
NO_ALT = "[...document.images].filter(i => i.closest('.bd-article') ? !i.alt : !i.hasAttribute('alt')).map(i => i.src)"
NOT_LOADED = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
FILTERED = "[...document.images].filter(i => getComputedStyle(i).filter !== 'none').map(i => i.src)"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN_MATHS = "[...document.querySelectorAll('.katex-error')].map(e => e.textContent)"
PLAIN_MATHS = "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('math')).map(e => e.textContent)"
DARK = "document.documentElement.dataset.theme"


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_page(watched, page_name, width, scheme):
    page = watched.open(page_name)
    assert page.evaluate(BROKEN_MATHS) == []
    assert page.evaluate(PLAIN_MATHS) == []
    assert page.evaluate(NO_ALT) == []
    assert page.evaluate(NOT_LOADED) == []
    assert page.evaluate(FILTERED) == []
    assert page.evaluate(DARK) == scheme
    assert page.evaluate(OVERFLOW) <= 0
    assert page.locator(".bd-article h1").count() == 1
    assert len(page.locator("meta[name=description]").get_attribute("content")) >= 20
    assert watched.problems == []


def test_maths_where_it_is_expected_in_its_own_font(watched):
    page = watched.open("notebooks/vae/03_evidence_lower_bound.html")
    assert page.locator(".katex math").count() > 20
    assert page.evaluate("[...document.fonts].some(f => f.status === 'loaded' && f.family.includes('KaTeX_Main'))")
    assert watched.problems == []


def test_chapters_carry_the_number_in_their_file_name():
    chapters = list((SITE / "notebooks").rglob("[0-9][0-9]_*.html"))
    assert chapters
    for path in chapters:
        title = re.search(r"<h1><span class=\"section-number\">(\d+)\. </span>", path.read_text(encoding="utf-8"))
        assert title is not None and int(title[1]) == int(path.name[:2]), path.name


def test_every_link_inside_the_site_leads_somewhere():
    soups = {path: BeautifulSoup((SITE / path).read_text(encoding="utf-8"), "html.parser") for path in pages()}
    names = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    lost = []
    for path, soup in soups.items():
        for link in soup.select("article a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            place = (SITE / path).parent / unquote(parts.path) if parts.path else SITE / path
            target = Path(place).resolve().relative_to(SITE.resolve()).as_posix()
            if not (SITE / target).is_file() or (target in names and parts.fragment and parts.fragment not in names[target]):
                lost.append(f"{path}: {link['href']}")
    assert lost == []


def test_root_leads_to_the_first_page(watched):
    page = watched.page
    page.goto(watched.address, wait_until="commit")
    page.wait_for_url("**/book/intro.html")
    assert page.title().startswith("Generating Images")
    assert watched.problems == []


def test_search_finds_a_word(watched):
    page = watched.open("search.html?q=evidence")
    page.wait_for_selector("#search-results li a")
    links = [link.get_attribute("href") for link in page.locator("#search-results li a").all()]
    assert any("03_evidence_lower_bound" in link for link in links)
    assert watched.problems == []


@pytest.mark.parametrize("width", [375, 1280])
def test_search_by_keyboard(watched, width):
    page = watched.open("book/intro.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("nats")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert page.locator("input[type=search]:visible").count() <= 1
    assert watched.problems == []


def test_interactive_figure_agrees_with_itself_and_obeys_the_keyboard(watched):
    page = watched.open("notebooks/vae/03_evidence_lower_bound.html")
    figure = page.locator("[data-figure=kl-gaussian]")
    assert figure.get_attribute("role") == "group" and len(figure.get_attribute("aria-label")) > 20

    def numbers() -> tuple[float, float]:
        closed, integrated = re.findall(r"(\d+\.\d{4})", figure.locator(".readout").inner_text())
        return float(closed), float(integrated)

    seen = [numbers()]
    mean, width = figure.locator("input[type=range]").all()
    for slider, key in [(mean, "End"), (width, "Home"), (width, "End"), (mean, "ArrowLeft")]:
        slider.focus()
        page.keyboard.press(key)
        seen.append(numbers())
    assert len(set(seen)) == len(seen)  # every key moved something
    assert all(abs(closed - integrated) <= 1e-4 for closed, integrated in seen)
    # mean 3, log σ = -1.5: ½(9 + e⁻³ - 1) + 1.5
    assert seen[2][0] == pytest.approx(5.5249, abs=1e-4)
    assert watched.problems == []


def test_figure_without_scripts_keeps_its_words(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/notebooks/vae/03_evidence_lower_bound.html")
    assert len(page.locator("figure.interactive figcaption").inner_text()) > 40
    context.close()


@pytest.mark.parametrize("name", ["book/notation.html", "notebooks/vae/03_evidence_lower_bound.html"])
def test_what_scrolls_sideways_is_reachable_by_keyboard(watched, name):
    watched.page.set_viewport_size({"width": 375, "height": 800})
    page = watched.open(name)
    stuck = """[...document.querySelectorAll('.bd-article *')].filter(e => e.scrollWidth > e.clientWidth + 1
      && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).map(e => e.className)"""
    assert page.evaluate(stuck) == []
