"""The page about stored formats names what keys are derived for, and every column there is."""

import ast
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

import langmem_isolated
from langmem_isolated._database import schema

PACKAGE = Path(langmem_isolated.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "explanation" / "formats.md").read_text()


def purposes() -> set[str]:
    """What subkeys are derived for, wherever in the package one is."""
    calls = (
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "derive"
    )
    return {ast.literal_eval(call.args[1]).decode() for call in calls}


def test_every_purpose_that_a_key_is_derived_for_is_on_the_page():
    found = purposes()

    assert len(found) >= 18
    assert sorted(one for one in found if f'"{one}"' not in PAGE) == []


@pytest.mark.parametrize("table", schema.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_column_of_a_table_has_a_row_on_the_page(table: sa.Table):
    after = PAGE.partition(f"**`{table.name}`**")[2]
    section = re.split(r"\n(?:\*\*`|## )", after, maxsplit=1)[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("| `"))

    assert [one.name for one in table.columns if f"`{one.name}`" not in rows] == []
