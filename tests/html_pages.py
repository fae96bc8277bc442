"""Reads pages of HTML in tests."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input"}
"""Elements without an end tag."""


class Page(HTMLParser):
    """A page of HTML: its elements, its visible text, and a check of its structure.

    Args:
        html: The page.

    Attributes:
        elements: Tag and attributes of every element, in order.
        links: The values of all attributes that lead to another resource.
        text: All text outside of styles, with single spaces.

    Raises:
        AssertionError: A tag is not closed, or closed twice.
    """

    LEADING = ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.styles = ""
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1:] == [tag], f"</{tag}> closes {self._open}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.styles += data
        else:
            self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts).split())

    @property
    def links(self) -> list[str]:
        return [
            value or ""
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in self.LEADING
        ]

    def tags(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_is_one_file(html: str) -> Page:
    """Read a page and check that it needs nothing outside of itself, and runs no script.

    Returns:
        The page.
    """
    assert html.startswith("<!doctype html>")
    page = Page(html)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for link in page.links:
        assert link.startswith("data:image/png;base64,") or link.removeprefix("#") in ids, link
    assert not re.search(r"url\(|@import", page.styles)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert not any(name.startswith("on") for _, of in page.elements for name in of)
    assert len(page.tags("title")) == len(page.tags("h1")) == 1
    assert page.tags("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.tags("img"))
    return page
