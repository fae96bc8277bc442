"""Templates of this package: pages of HTML in one file each, and Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mst_distill.compare.markdown import escaped, markdown_table

PNG = b"\x89PNG\r\n\x1a\n"


def render_html(template: str, **values: Any) -> str:
    """Fill in a template of HTML; every value is escaped.

    The filter ``png`` turns the bytes of a PNG into a data URI, so that a page is one file, and the
    filter ``rows`` a table of pandas into lists of texts.

    Args:
        template: The name of its file in ``templates``.
        values: The values of its variables; a variable without a value is an error.
    """
    return _render(template, values, escape=True, png=data_uri, rows=table_rows)


def render_markdown(template: str, **values: Any) -> str:
    """Fill in a template of Markdown; values are escaped by a filter or not at all.

    The filter ``text`` escapes, see `escaped`; the filter ``table`` escapes the cells of a table of
    pandas and writes it.

    Args:
        template: The name of its file in ``templates``.
        values: The values of its variables; a variable without a value is an error.
    """
    page = _render(template, values, escape=False, text=escaped, table=_escaped_table)
    return re.sub(r"\n{3,}", "\n\n", page)


def _render(
    template: str,
    values: Mapping[str, Any],
    escape: bool,
    **filters: Callable[..., str | list[Any]],
) -> str:
    pages = Environment(
        loader=PackageLoader("mst_distill.report"),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= filters
    return pages.get_template(template).render(values).strip() + "\n"


def data_uri(picture: bytes) -> str:
    """Return a PNG as a URI that contains it.

    Raises:
        ValueError: The bytes are no PNG.
    """
    if not picture.startswith(PNG):
        raise ValueError(f"the picture begins with {picture[:8]!r} and is no PNG")
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def table_rows(table: pd.DataFrame) -> list[list[str]]:
    """Return the cells of a table without its index as texts, row by row."""
    cells: list[list[str]] = table.map(str).to_numpy().tolist()
    return cells


def _escaped_table(table: pd.DataFrame) -> str:
    return markdown_table(table.map(escaped))
