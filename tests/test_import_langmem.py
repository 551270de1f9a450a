"""Memories that the real LangMem keeps in LangGraph's store find the user of their namespace."""

import sqlite3
import warnings
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.sqlite import SqliteStore

from langmem_isolated import IsolatedMemory
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import ForeignItem, Import, Mapping, Source, source_specs

with warnings.catch_warnings():
    # A dependency of langmem's imports what LangGraph has moved.
    warnings.simplefilter("ignore")
    from langmem import create_manage_memory_tool, create_search_memory_tool

TEMPLATE = ("memories", "{langgraph_user_id}")


def config(user: str) -> dict[str, Any]:
    return {"configurable": {"langgraph_user_id": user}}


@pytest.fixture
def store_file(tmp_path: Path) -> str:
    connection = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    store = SqliteStore(connection)
    store.setup()
    tool = create_manage_memory_tool(TEMPLATE, store=store)
    for user, text in (("ann", "Likes chess."), ("bob", "Plays Go.")):
        tool.invoke({"content": text, "action": "create"}, config(user))
    store.put(("notes", "tutor", "ann", "school"), "friday", {"kind": "Note", "content": "Test"})
    connection.close()
    return str(tmp_path / "store.db")


def made(store_file: str, *templates: str) -> Source:
    return source_specs()["langmem"].make(store_file, namespace=list(templates))


def test_the_label_of_langmems_template_is_the_user_and_stays_where_it_is(store_file):
    with made(store_file) as source:
        found = {unit.namespace: unit for unit in source.units() if isinstance(unit, ForeignItem)}

    ann = found["memories", "ann"]
    assert ann.fields["user"] == "ann"
    assert (ann.value["content"], ann.created_at is not None) == ("Likes chess.", True)
    assert "user" not in found["notes", "tutor", "ann", "school"].fields


def test_the_first_of_several_templates_that_fits_counts(store_file):
    with made(store_file, "memories.{user_id}", "notes.{agent_id}.{user}.*") as source:
        owners = [(unit.fields["user"], unit.fields.get("module")) for unit in source.units()]

    assert owners == [("ann", None), ("bob", None), ("ann", "tutor")]


@pytest.mark.parametrize(
    "template", ["memories", "memories.{thread}", "{user}.{user_id}", "{user}.{agent_id}.{module}"]
)
def test_a_template_that_does_not_tell_one_user_is_refused(store_file, template):
    with pytest.raises(SourceRefused, match="which one is the user"):
        made(store_file, template)


def test_langmems_tools_find_their_memories_where_they_were(store_file, tmp_path, root_key):
    with IsolatedMemory(f"sqlite:///{tmp_path}/memory.db", root_key=root_key) as memory:
        with made(store_file) as source:
            Import(memory, source, Mapping(module="tutor"), unmapped="skip", folder=tmp_path).run()
        found = {}
        for user in ("ann", "bob"):
            store = memory.scope(user_id=user, module_id="tutor").store()
            tool = create_search_memory_tool(TEMPLATE, store=store)
            found[user] = tool.invoke({"query": "games"}, config(user))

    assert ("Likes chess." in found["ann"], "Plays Go." in found["bob"]) == (True, True)
    assert ("Plays Go." in found["ann"], "Likes chess." in found["bob"]) == (False, False)
