"""The files around the code: links that exist, commands that `make` knows, versions that agree."""

import configparser
import pathlib
import re

import pytest

import keras_sharenets

ROOT = pathlib.Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
HOME = SETUP["metadata"]["url"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def links(text):
    """Targets of Markdown links and link definitions, except in code."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M)


def anchors(text):
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def in_the_tree(link):
    """The path in this repository of a link to its home page; `None` for other links."""
    for begin in (f"{HOME}/blob/main/", f"{HOME}/tree/main/"):
        if link.startswith(begin):
            return link.removeprefix(begin).partition("#")[0]
    raw = HOME.replace("//github.com", "//raw.githubusercontent.com") + "/main/"
    return link.removeprefix(raw) if link.startswith(raw) else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page.read_text()):
        if link.startswith("#"):
            assert link[1:] in anchors(page.read_text()), link
        elif link.startswith("https://"):
            path = in_the_tree(link)
            assert path is None or (ROOT / path).exists(), link
        else:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_links_of_the_readme_work_on_a_package_index():
    found = links((ROOT / "README.md").read_text())
    assert len(found) >= 8
    assert [link for link in found if not link.startswith(("https://", "#"))] == []


def test_links_of_the_package_lead_home():
    urls = [line.partition(" = ")[2] for line in SETUP["metadata"]["project_urls"].strip().splitlines()]
    assert len(urls) == 3
    for url in urls:
        assert url == f"{HOME}/issues" or (ROOT / in_the_tree(url)).exists()


@pytest.mark.parametrize("page", [ROOT / ".github" / "workflows" / "ci.yml", *PAGES], ids=lambda page: page.name)
def test_commands_that_make_knows(page):
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.S)) if page.suffix == ".md" else text
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ *(?:- run: )?(make .+)$", blocks, re.M)
    called = {target for line in code for target in re.findall(r"\bmake ([a-z][a-z-]*)", line)}
    assert called <= TARGETS


def test_paths_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = [name for name in re.findall(r"`([\w./]+)`", text) if "/" in name or name.endswith((".md", ".cfg"))]
    assert len(set(paths)) >= 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_continuous_integration_runs_on_every_python_that_is_promised():
    promised = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.M)
    assert promised[0] == SETUP["options"]["python_requires"].removeprefix(">=")
    matrices = re.findall(r"python: \[(.*)\]", WORKFLOW)
    assert [re.findall(r'"(.*?)"', matrix) for matrix in matrices] == [promised] * 2


def test_changelog_and_citation_name_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.M)
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{released[0][0]}]")
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {released[0][0]}\ndate-released: {released[0][1]}\n" in citation
    # Between two releases, the version is that of the next release, marked as unreleased.
    assert re.fullmatch(rf"{re.escape(released[0][0])}|\d+\.\d+\.\d+\.dev0", keras_sharenets.__version__)
