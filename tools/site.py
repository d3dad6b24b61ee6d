"""The MkDocs hook of `make docs`, which adds pages to those of `docs/`.

README, the changelog, CONTRIBUTING, and the notebooks become pages; each public name gets an entry in the reference.
Links to this repository on the web become links within the site if it has the page.
"""

from __future__ import annotations

import ast
import pathlib
import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
HOME = "https://github.com/keras-sharenets/keras_sharenets"
RAW = "https://raw.githubusercontent.com/keras-sharenets/keras_sharenets/main/"
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
# For each page of the reference: its title, and the modules whose public names it lists.
REFERENCE = {
    "keras_sharenets": ("keras_sharenets", ["keras_sharenets"]),
    "layers": ("Layers", ["keras_sharenets.layers"]),
    "models": ("Models", ["keras_sharenets.models"]),
    "sharing": ("Sharing", ["keras_sharenets.sharing"]),
    "analysis": ("Analysis", ["keras_sharenets.analysis"]),
    "mobile": ("Mobile", ["keras_sharenets.mobile"]),
}
# These modules have no list of names: all names without a leading underscore are documented.
MODULES = {
    "ops": (
        "Operations",
        ["kernels", "permutations", "hierarchical", "interleaved", "convolution", "connectivity", "balance"],
    ),
    "training": (
        "Training",
        [
            "run.fit",
            "run.record",
            "recipes.recipe",
            "recipes.named",
            "data.dataset",
            "data.sources",
            "data.batches",
            "devices.devices",
        ],
    ),
    "search": ("Search", ["search", "budgets", "enumeration", "spaces.space", "report"]),
}
_STYLE = """
.md-grid { max-width: 64rem; }
.md-typeset table:not([class]) { font-size: .68rem; }
.md-typeset table:not([class]) :is(td, th) { padding: .5em .8em; min-width: 0; }
.md-typeset td code { white-space: nowrap; }
.md-typeset td[style*="right"] { white-space: nowrap; }
.md-typeset img { background: white; }
/* Figures, not photographs: inverted on a dark page, and scrolled on a phone, where text would be too small. */
[data-md-color-scheme="slate"] .md-typeset
:is(img[src$="sharing.png"], img[src*="saved_models/"], img[src*="search_cifar10/"]) {
  filter: invert(.91) hue-rotate(180deg); mix-blend-mode: lighten;
}
@media (max-width: 44em) {
  .md-typeset p:has(> img:only-child) { overflow-x: auto; }
  .md-typeset p > img:only-child { min-width: 32rem; }
}
"""


def public_names(module: str) -> list[str]:
    """The names that a package lists in `__all__`, without importing it."""
    path = ROOT / module.replace(".", "/") / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{path} lists no names in `__all__`.")


def _is_package(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).is_dir()


def reference() -> dict[str, str]:
    """The reference pages as Markdown, by path."""
    pages = {}
    for page, (title, modules) in REFERENCE.items():
        names = [f"{module}.{name}" for module in modules for name in public_names(module)]
        entries = [f"::: {name}" for name in names if not _is_package(name)]
        pages[f"reference/{page}.md"] = "\n\n".join([f"# {title}", *entries, ""])
    for page, (title, modules) in MODULES.items():
        entries = [
            f"::: keras_sharenets.{page}.{module}\n    options:\n      show_root_full_path: true" for module in modules
        ]
        pages[f"reference/{page}.md"] = "\n\n".join([f"# {title}", *entries, ""])
    return pages


def notebooks() -> dict[str, str | bytes]:
    """The notebooks as Markdown pages, and their images, by path."""
    import nbconvert

    files: dict[str, str | bytes] = {}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        resources = {"unique_key": path.stem, "output_files_dir": path.stem}
        body, made = nbconvert.MarkdownExporter().from_filename(str(path), resources)
        body = body.replace(f"{HOME}/blob/main/docs/notebooks/", "").replace(f"{HOME}/blob/main/docs/", "../")
        title, _, rest = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", body.partition("\n# ")[2]).partition("\n")
        files[f"notebooks/{path.stem}.md"] = f"# {title}\n\n[As a notebook]({path.name})\n{rest}"
        files |= {f"notebooks/{name}": image for name, image in made["outputs"].items()}
    return files


def inside(text: str) -> str:
    """`text` with links to pages and images of this repository rewritten to links within the site."""
    text = text.replace(f"{RAW}docs/", "").replace(RAW, "").replace("](docs/", "](")
    text = re.sub(rf"{HOME}/blob/main/docs/([\w/]+\.md)", r"\1", text)
    text = re.sub(rf"(?:{HOME}/blob/main/docs/|(?<=\]\())(notebooks/\w+)\.ipynb", r"\1.md", text)
    for name, source in PAGES.items():
        text = text.replace(f"{HOME}/blob/main/{source}", name)
    text = re.sub(r"(\]\(|src=\")\.\./(saved_models/[\w/]+\.png)", r"\1\2", text)
    # Files that are not part of the site keep links to the web.
    return re.sub(r"\]\(\.\./(?!saved_models/[\w/]+\.png)([\w./-]+)\)", rf"]({HOME}/tree/main/\1)", text)


def as_markdown(docstring: str) -> str:
    """A docstring with its examples as code blocks and without brackets around names."""
    blocks = textwrap.dedent(re.sub(r"\[(`[\w.]+`)\]", r"\1", docstring)).split("\n\n")
    return "\n\n".join(
        f"```pycon\n{block.strip()}\n```" if block.lstrip().startswith(">>>") else block for block in blocks
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and images that are not in `docs/`."""
    from mkdocs.structure.files import File

    for name, source in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        # The first page is the only one in its navigation section; hiding it leaves room for code.
        content = f"---\nhide:\n  - navigation\n---\n\n{content}" if name == "index.md" else content
        files.append(File.generated(config, name, content=content))
    for name, content in [*reference().items(), *notebooks().items()]:
        files.append(File.generated(config, name, content=content))
    for image in {
        image
        for page in ROOT.glob("docs/*.md")
        for image in re.findall(r"saved_models/[\w/]+\.png", page.read_text(encoding="utf-8"))
    }:
        files.append(File.generated(config, image, abs_src_path=str(ROOT / image)))
    files.append(File.generated(config, "site.css", content=_STYLE))
    files.append(File.generated(config, "iframe-worker.js", abs_src_path=str(ROOT / "tools" / "iframe-worker.js")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page before it is rendered; those of notebooks need no change."""
    return markdown if page.file.src_uri.startswith("notebooks/") else inside(markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Removes the attribute that makes the script of the theme query GitHub for the repository's stars."""
    return output.replace(' data-md-component="source"', "")
