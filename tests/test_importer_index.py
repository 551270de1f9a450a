"""The page that leads to an importer has all of them, each with a page that says more."""

import re
from pathlib import Path

from langmem_isolated.importers import source_specs

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "which-importer.md"
ROWS = [row for row in PAGE.read_text().splitlines() if row.startswith("| ")]


def test_every_importer_is_in_the_index_once():
    named = [name for row in ROWS for name in re.findall(r"`([a-z0-9-]+)`", row.split(" | ")[2])]

    assert sorted(named) == sorted(source_specs())


def test_every_row_of_the_index_leads_to_a_heading():
    for page, anchor in re.findall(r"\]\(([^)#]+)#([^)]+)\)", "\n".join(ROWS)):
        headings = re.findall(r"^#+ (.+)$", (PAGE.parent / page).read_text(), re.MULTILINE)
        # As a site makes anchors of them.
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert anchor in anchors, (page, anchor)
