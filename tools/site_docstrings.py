"""A Griffe extension that converts docstrings to Markdown for the reference of `make docs`."""

from __future__ import annotations

from typing import Any

import griffe

from tools.site import as_markdown


class Docstrings(griffe.Extension):
    """Rewrites each docstring: examples become code blocks, and brackets around names are removed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
