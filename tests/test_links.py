"""The documents' links within the project lead to files and headings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [
    *PROJECT.glob("*.md"),
    *(path for folder in ("docs", "recipes", "data") for path in sorted((PROJECT / folder).rglob("*.md"))),
]
CODE = [path for folder in ("metatext", "benchmarks", "recipes") for path in sorted((PROJECT / folder).rglob("*.py"))]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(next(name for name in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if name not in found))
    return found


def broken(page: Path, text: str) -> list[str]:
    """The links of a page, within the project, whose file or heading is missing."""
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        name, _, anchor = link.partition("#")
        if ":" in name:  # a link to the web
            continue
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            missing.append(link)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A title, twice\n\n## A title, twice\n", encoding="utf-8")
    text = "[a](other.md#a-title-twice-1) [b](other.md#b) [c](none.md) [d](#e) [f](https://example.org/none)\n\n## F"
    assert broken(tmp_path / "page.md", f"{text}\n") == ["other.md#b", "none.md", "#e"]


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(PROJECT)))
def test_pages_that_code_cites_are_there(file: Path) -> None:
    cited = set(re.findall(r"\bdocs/\w+\.md\b", file.read_text(encoding="utf-8")))
    assert [name for name in cited if not (PROJECT / name).is_file()] == []
