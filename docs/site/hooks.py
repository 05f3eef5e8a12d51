"""MkDocs hooks: pages that are made rather than written, links between pages, and the check of docstrings."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import checks
import gallery
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

# Files outside docs/ and their pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
}
BENCHMARKS = "bench/results"
# The gallery has a section for each script.
EXAMPLES = "docs/examples"
# Text, target and anchor of a link or picture in Markdown.
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")

# What a page loads, unlike what it links to.
FOREIGN = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//[^>]*|<link\b[^>]*\bhref=\"(?:https?:)?//[^>]*"
)


def on_config(config: MkDocsConfig) -> None:
    """Fails if a public name has no docstring."""
    if missing := checks.all_missing_docstrings():
        raise PluginError(f"these public names have no docstring: {', '.join(missing)}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of files outside docs/, one API page per public module, and the gallery."""
    for source, uri in _outside().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    for module in checks.PUBLIC_MODULES:
        uri = f"api/{module.rpartition('.')[2]}.md"
        files.append(File.generated(config, uri, content=f"---\ntitle: {module}\n---\n\n::: {module}\n"))
    try:
        examples = gallery.run_all(ROOT / EXAMPLES)
    except RuntimeError as error:
        raise PluginError(str(error)) from error
    for example in examples:
        files.append(File.generated(config, f"gallery/{example.path.stem}.png", content=example.picture))
    files.append(File.generated(config, "gallery.md", content=gallery.page(examples)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]
    uri = page.file.src_uri
    outside = _outside()
    source = next((path for path, page_uri in outside.items() if page_uri == uri), f"docs/{uri}")

    def relink(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path.startswith(EXAMPLES):
            path, anchor = "docs/gallery.md", f"#{Path(path).stem}" if path != EXAMPLES else ""
        page_uri = outside.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(page_uri) is None and (ROOT / path).exists():
            # A file of the repository that has no page: only the text remains.
            return text
        return f"[{text}]({posixpath.relpath(page_uri, posixpath.dirname(uri) or '.')}{anchor})"

    is_generated = uri == "gallery.md" or uri.startswith("api/")
    return markdown if is_generated else LINK.sub(relink, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Fails if the page loads anything from another server, because the site must work offline."""
    if foreign := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from another server: {foreign[0]}")


def _outside() -> dict[str, str]:
    """The page or asset of each file outside docs/."""
    results = [*(ROOT / BENCHMARKS).glob("*.md"), *(ROOT / BENCHMARKS).glob("*.png")]
    return PAGES | {f"{BENCHMARKS}/{path.name}": f"benchmarks/{path.name}" for path in results}
