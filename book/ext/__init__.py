"""The book's own Sphinx extensions, loaded together as `book.ext` (see `_config.yml`). None of them needs torch."""

from sphinx.application import Sphinx

MODULES = ("api_reference", "chapters", "equation_index", "interactive", "maths", "pages", "repository", "results")


def setup(app: Sphinx) -> dict[str, bool]:
    for module in MODULES:
        app.setup_extension(f"{__name__}.{module}")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
