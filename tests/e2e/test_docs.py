"""Every link between the pages leads somewhere, and every page begins with something to run or to paste."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What can follow a '#': GitHub's spelling of the headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(page.read_text())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", ["run", "vault", "aws", "audit", "certificates"])
def test_an_operators_page_begins_with_lines_that_work(name: str) -> None:
    opening = (ROOT / "docs" / f"{name}.md").read_text().split("\n## ")[0]
    assert "```" in opening.split("\n\n", 2)[2][:4]
