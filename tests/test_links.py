"""Every link from one page of the documentation to another leads somewhere, to a heading that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATED = {ROOT / "docs/policies.md"}  # written when the pages are built


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as the pages' generator makes them."""
    names = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        names.add(re.sub(r"[-\s]+", "-", plain))
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if ":" in link:
            continue  # of another site
        file, _, name = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists() or target in GENERATED, f"{page.relative_to(ROOT)}: {link} leads nowhere"
        if name and target.suffix == ".md" and target.exists():
            assert name in anchors(target), f"{page.relative_to(ROOT)}: {link}: no such heading"
