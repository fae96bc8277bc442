"""Escaping, tables and pictures of the pages."""

from __future__ import annotations

import base64

import pandas as pd
import pytest
from jinja2 import UndefinedError

from mst_distill.compare.markdown import escaped
from mst_distill.report.rendering import PNG, data_uri, render_html, render_markdown, table_rows


def test_a_picture_is_a_uri_that_contains_it() -> None:
    uri = data_uri(PNG + b"rest")
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == PNG + b"rest"


def test_a_picture_that_is_no_png_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"begins with b'<svg xml' and is no PNG"):
        data_uri(b"<svg xmlns='...'>")


def test_cells_of_a_table_are_texts() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "<y>"]})
    assert table_rows(table) == [["1", "x"], ["2", "<y>"]]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a|b", "a&#124;b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("not_humanitarian", "not_humanitarian"),
        ("_private_ *bold* `code`", r"\_private\_ \*bold\* \`code\`"),
        ("[link](http://x)", r"\[link\](http://x)"),
        ("AT&T\n# heading", "AT&amp;T # heading"),
        ("kd <- audio, 1 < 2", "kd <- audio, 1 < 2"),
        (7, "7"),
    ],
)
def test_markdown_shows_texts_as_they_are(text: object, result: str) -> None:
    assert escaped(text) == result


@pytest.mark.parametrize(
    ("render", "template"), [(render_html, "run.html"), (render_markdown, "model_card.md")]
)
def test_a_variable_without_a_value_is_an_error(render, template: str) -> None:
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render(template)
