"""The site of `make docs`: every public name is in the reference, every page in the navigation, and links stay inside.

The build itself, whose checks of links are strict, runs in continuous integration.
"""

import importlib
import pathlib
import re

import pytest
from test_repository import HOME, links

from tools import site

ROOT = pathlib.Path(__file__).parent.parent
CONFIGURATION = (ROOT / "mkdocs.yml").read_text()
REFERENCE = site.reference()
PAGES = {path.name for path in (ROOT / "docs").glob("*.md")} | set(site.PAGES) | set(REFERENCE)
PAGES |= {f"notebooks/{path.stem}.md" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("module", sorted({module for _, modules in site.REFERENCE.values() for module in modules}))
def test_every_public_name_is_in_the_reference_and_has_a_docstring(module):
    found = set(re.findall(r"^::: (\S+)$", "\n".join(REFERENCE.values()), re.M))
    package = importlib.import_module(module)
    for name in package.__all__:
        public = getattr(package, name)
        if not hasattr(public, "__path__"):  # A package has a separate page.
            assert f"{module}.{name}" in found
            assert public.__doc__
        else:
            assert f"reference/{name}.md" in REFERENCE


def test_modules_of_the_reference_exist():
    modules = [name for name in re.findall(r"^::: (\S+)$", "\n".join(REFERENCE.values()), re.M)]
    modules = [name for name in modules if name.split(".")[1] in site.MODULES]
    assert len(modules) >= 15
    for name in modules:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


def test_every_page_is_in_the_navigation():
    assert set(re.findall(r"(?:: |- )([\w/]+\.md)$", CONFIGURATION, re.M)) == PAGES


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "docs/results.md", "docs/training.md"])
def test_links_stay_inside(page):
    found = links(site.inside((ROOT / page).read_text()))
    assert found
    for link in found:
        path = link.partition("#")[0]
        assert not path.startswith((f"{HOME}/blob/main/docs", "https://raw.", "..")), link
        if path and not path.startswith("https://"):
            place = ROOT if path.startswith("saved_models/") else ROOT / "docs"
            assert path in PAGES or (place / path).is_file(), link


def test_notebooks_become_pages():
    pytest.importorskip("nbconvert")
    files = site.notebooks()
    assert {name for name in files if name.endswith(".md")} == {name for name in PAGES if name.startswith("notebooks/")}
    for name, text in files.items():
        for link in links(text) if isinstance(text, str) else ():
            path = (pathlib.PurePosixPath(name).parent / link).as_posix()
            assert link.startswith("https://") or path in files or (ROOT / "docs" / path).is_file(), link


def test_a_docstring_with_an_example():
    assert site.as_markdown("Doubles, as [`twice`].\n\n>>> double(2)\n4") == (
        "Doubles, as `twice`.\n\n```pycon\n>>> double(2)\n4\n```"
    )


def test_site_loads_no_external_resources():
    assert "font: false" in CONFIGURATION
    assert "  - offline" in CONFIGURATION
    # Without a script of that name, the plugin adds one from a CDN to every page.
    assert "    - iframe-worker.js\n" in CONFIGURATION
    assert (ROOT / "tools" / "iframe-worker.js").is_file()
    link = '<a href="https://github.com/a/b" class="md-source"{}>'
    assert site.on_post_page(link.format(' data-md-component="source"'), None, None) == link.format("")
