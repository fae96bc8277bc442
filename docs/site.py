"""Hooks of the documentation site: pages for files outside docs/, and the reference.

Pages in docs/ link to files of the project as they do on a code host. On the site such a link leads
to a page: a module of the package to its page in the reference, a page of Markdown to itself, and
any other file to a page that shows it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PACKAGE = "mst_distill"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{
        page.relative_to(ROOT).as_posix(): page.relative_to(ROOT).as_posix()
        for page in (*ROOT.glob("studies/**/*.md"), *ROOT.glob("data/01_raw/*/README.md"))
    },
}
"""Pages of Markdown outside docs/ to their place on the site."""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
SHOWN = {".py": "python", ".yml": "yaml", ".csv": "text", "": "text"}
"""Suffixes of files that are shown on a page, to the language of their text."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, a page for each module, and one for each file that is linked."""
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    for picture in sorted(ROOT.glob("studies/**/*.png")):
        place = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    modules = sorted((SOURCE / PACKAGE).rglob("*.py"))
    for module in modules:
        if uri := page_of(module):
            files.append(File.generated(config, uri, content=reference_page(module)))
    files.append(File.generated(config, "reference/index.md", content=reference_index(modules)))
    texts = [(ROOT / page, (ROOT / page).read_text()) for page in PAGES]
    texts += [(page, page.read_text()) for page in sorted((ROOT / "docs").glob("*.md"))]
    linked = {
        target
        for page, text in texts
        for name, _ in LINK.findall(text)
        if (target := (page.parent / name).resolve()).is_file() and target.suffix in SHOWN
    }
    for file in sorted(linked):
        if (uri := page_of(file)) and files.get_file_from_path(uri) is None:
            name = file.relative_to(ROOT).as_posix()
            text = f"# `{name}`\n\n````{SHOWN[file.suffix]}\n{file.read_text()}\n````\n"
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the project lead to their pages."""
    uri = page.file.src_uri
    sources = {place: ROOT / source for source, place in PAGES.items()}
    folder = sources.get(uri, ROOT / "docs" / uri).parent

    def replace(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        place = page_of(target)
        if place is None:
            return match[0]
        start = PurePosixPath(uri).parent.as_posix()
        return os.path.relpath(place, start) + (match[2] or "")

    return LINK.sub(replace, markdown)


def page_of(file: Path) -> str | None:
    """The page on the site that shows a file or folder of the project, if there is one."""
    if not file.is_relative_to(ROOT) or not file.exists():
        return None
    name = file.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if file.parent == ROOT / "docs" and file.suffix in (".md", ".svg"):
        return file.name
    if file.suffix == ".png":
        return name
    if file.is_relative_to(SOURCE) and file.suffix == ".py":
        module = file.relative_to(SOURCE / PACKAGE).with_suffix("").as_posix()
        empty = module.endswith("__init__") and not module.startswith("mst/")
        return None if empty else f"reference/{module.removesuffix('/__init__')}.md"
    return f"files/{name}.md" if file.suffix in SHOWN and file.is_file() else None


def reference_page(module: Path) -> str:
    """The page of a module in the reference."""
    path = module.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
    path = path.removesuffix(".__init__")
    return f"# {path.removeprefix(f'{PACKAGE}.')}\n\n::: {path}\n"


def reference_index(modules: list[Path]) -> str:
    """All modules by room, each with the first line of its docstring."""
    lines = ["# Reference", ""]
    for module in modules:
        if uri := page_of(module):
            name = uri.removeprefix("reference/").removesuffix(".md")
            first = module.read_text().removeprefix('"""').split("\n")[0].rstrip('"')
            lines.append(f"- [{name}]({uri.removeprefix('reference/')}): {first}")
    return "\n".join(lines) + "\n"
