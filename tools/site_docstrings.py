"""Docstrings as Markdown, for the reference of `make docs`: an extension of Griffe, which reads them."""

from __future__ import annotations

from typing import Any

import griffe

from tools.site import as_markdown


class Docstrings(griffe.Extension):
    """Rewrites each docstring as it is found: examples are code, and brackets around names are for readers of that."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
