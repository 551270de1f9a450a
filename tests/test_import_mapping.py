"""Mappings of an import: each id becomes exactly whose the rule says, or nobody's."""

import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmem_isolated import Scope
from langmem_isolated.errors import MappingRefused, ScopeError
from langmem_isolated.importers import (
    Field,
    ForeignDocument,
    ForeignItem,
    ForeignProfile,
    ForeignSession,
    ForeignThread,
    ForeignUnit,
    Mapping,
    Owner,
    Target,
    Unmapped,
)
from langmem_isolated.scope import checked_id

SECRET = "ann.lee@example.org"


def session(name: str = "ann:monday", **fields: Any) -> ForeignSession:
    return ForeignSession(name, "a table, row 1", (), fields)


def item(*namespace: str) -> ForeignItem:
    return ForeignItem(namespace, "key", {}, "a table, row 1")


def refused(mapping: Mapping, unit: ForeignUnit) -> str:
    with pytest.raises(Unmapped) as caught:
        mapping.target_of(unit)
    assert SECRET not in caught.value.reason
    return caught.value.reason


def owners_in_this_module(unit: ForeignUnit) -> Any:
    """What a test says that it returns."""
    return {
        "scope": Scope("ann", "tutor", project_id="shop"),
        "owner": Owner("ann", "tutor", name="monday"),
        "nobody": None,
        "other": {"user": SECRET},
        "half": Owner("ann"),
        "raises": session().fields.get,
    }[unit.id]


# --- what has no owner is nobody's


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping(user=Field("owner"), module="chat"),
        Mapping(module="chat", pattern=r"(?P<user>[a-z.@]+): ?(?P<session>1)"),
        Mapping(module="chat", pattern=r"(?:(?P<user>[a-z]+)@)?.*"),
        Mapping(function=owners_in_this_module),
    ],
)
def test_what_no_rule_maps_has_no_owner_and_the_reason_has_no_id(mapping: Mapping):
    assert refused(mapping, session(f"{SECRET}: 17", owner=None))


@pytest.mark.parametrize("value", [None, "", True, 1.5, b"ann", ["ann"], {"id": "ann"}])
def test_a_field_that_is_no_id_maps_nothing(value: Any):
    mapping = Mapping(user=Field("owner"), module="chat")

    assert "field 'owner'" in refused(mapping, session(owner=value))


@pytest.mark.parametrize("user", ["a" * 256, "a\x00b", "\ud800", "e\u0301"])
def test_an_id_that_is_malformed_maps_nothing(user: str):
    mapping = Mapping(user=Field("owner"), module="chat")

    assert "user_id must be" in refused(mapping, session(owner=user))
    assert "session's id must be" in refused(Mapping(user="ann", module="chat"), session(user))


def test_no_mapping_is_without_a_user_and_a_module():
    for rules in ({}, {"user": "ann"}, {"module": "chat"}, {"pattern": "(?P<session>.*)"}):
        with pytest.raises(MappingRefused, match="There is no default"):
            Mapping(**rules).completed(())
        with pytest.raises(MappingRefused, match="There is no default"):
            Mapping(**rules).target_of(session())


def test_a_field_that_is_not_there_is_told_with_those_that_are():
    reason = refused(Mapping(user=Field("owner"), module="chat"), session(user_id=7, mode="x"))

    assert "there are mode, user_id" in reason


def test_a_path_that_ends_too_early_is_told_with_what_is_in_its_first_field():
    metadata = {"user_id": "ann", "deeper": {SECRET: 1}}
    shallow, deep = (
        refused(Mapping(user=Field(path), module="chat"), session(metadata=metadata))
        for path in ("metadata.userid", "metadata.deeper.userid")
    )

    assert "in 'metadata' there are deeper, user_id" in shallow
    assert "in 'metadata' there are deeper, user_id" in deep


# --- what a rule maps


def test_columns_and_paths_name_owners():
    fields = {"owner": 7, "meta": {"modules": ["chat", "tutor"]}, "meta.user": UUID(int=1)}
    mapping = Mapping(user=Field("owner"), module=Field("meta.modules.1"))
    dotted = Mapping(user=Field("meta.user"), module="chat", name=Field("owner"))

    assert mapping.target_of(session(**fields)) == Target(Scope("7", "tutor"), "ann:monday")
    assert dotted.target_of(session(**fields)) == Target(Scope(str(UUID(int=1)), "chat"), "7")


@given(st.text(max_size=40), st.text(max_size=40))
def test_each_id_maps_to_exactly_what_the_pattern_says_or_to_nobody(user: str, name: str):
    pattern = r"(?P<user>[^:]*):(?P<session>[\s\S]*)"
    mapping = Mapping(module="chat", pattern=pattern)
    found = re.fullmatch(pattern, f"{user}:{name}")
    assert found

    try:
        target = mapping.target_of(session(f"{user}:{name}"))
    except Unmapped:
        with pytest.raises(ScopeError):
            [checked_id("id", part) for part in found.groups()]
    else:
        assert (target.scope.user_id, target.name) == found.groups()
        assert target.scope == Scope(found["user"], "chat")


@given(st.dictionaries(st.text(min_size=1), st.sampled_from(["ann", "bob"]), min_size=1))
def test_a_table_maps_the_ids_that_it_has_and_no_other(owners: dict[str, str]):
    def unit(name: str) -> ForeignProfile:
        return ForeignProfile(name, "a file")

    mapping = Mapping(module="chat", function=None, table=_written(owners))

    for name, user in owners.items():
        assert mapping.target_of(unit(name)).scope == Scope(user, "chat")
    other = "".join(owners) + "x"
    assert "not in the table" in refused(mapping, unit(other))


def _written(owners: dict[str, str]) -> Path:
    import csv
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False, newline="") as file:
        csv.writer(file).writerows([("id", "user"), *owners.items()])
    return Path(file.name)


def test_a_table_tells_modules_projects_and_names_too(tmp_path: Path):
    table = tmp_path / "owners.csv"
    table.write_text("\ufeffid,user,project,name,module\r\n1,ann,,monday,chat\r\n2,bob,shop,,\r\n")
    mapping = Mapping(table=table)

    assert mapping.target_of(session("1")) == Target(Scope("ann", "chat"), "monday")
    assert "no module" in refused(mapping, session("2"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "needs a header"),
        (b"1,ann\n", "needs a header"),
        (b"id,user,user\n", "needs a header"),
        (b"id,user,modul\n1,ann,chat\n", "1 columns of the table of owners have other names"),
        (b"id,user\n1,ann\n1,bob\n", "Line 3 of the table has an id a second time"),
        (b"id,user\n1\n", "Line 2 of the table has 1 columns"),
        (b"id,user\n\xff,ann\n", "is not UTF-8"),
        (b'id,user\n1,"ann\n', "is no CSV"),
    ],
)
def test_a_table_that_could_be_read_in_two_ways_is_refused(
    tmp_path: Path, content: bytes, told: str
):
    (tmp_path / "owners.csv").write_bytes(content)

    with pytest.raises(MappingRefused, match=told):
        Mapping(module="chat", table=tmp_path / "owners.csv")


def test_a_function_tells_all_of_an_owner():
    name = f"{__name__}:owners_in_this_module"
    mapping = Mapping(function=name)

    assert mapping.target_of(session("scope")).scope == Scope("ann", "tutor", project_id="shop")
    assert mapping.target_of(session("owner")) == Target(Scope("ann", "tutor"), "monday")
    assert "found no owner" in refused(mapping, session("nobody"))
    assert "returned dict" in refused(mapping, session("other"))
    assert "returned Owner" in refused(mapping, session("half"))
    assert "raised KeyError" in refused(mapping, session(SECRET))
    assert mapping.digest == Mapping(function=owners_in_this_module).digest


def test_documents_and_threads_are_mapped_as_sessions_are():
    pattern = r"(?P<module>\w+)/(?P<user>\w+)/(?P<thread>\d+)"
    mapping = Mapping(pattern=pattern, project="shop")
    scope = Scope("ann", "chat", project_id="shop")

    thread = ForeignThread("chat/ann/7", "a table", ())
    assert mapping.target_of(thread) == Target(scope, "7")
    document = ForeignDocument("notes", "chat/ann/7", "text", {}, "a collection")
    assert mapping.target_of(document) == Target(scope)


def test_labels_that_name_the_owner_stay_unless_they_are_to_be_dropped():
    pattern = r"memories\.user-(?P<user>[^.]+)(\..+)?"
    scope = Scope("ann", "chat")
    kept, dropped = (
        Mapping(module="chat", pattern=pattern, drop_labels=drop) for drop in (False, True)
    )

    assert kept.target_of(item("memories", "user-ann", "x")) == Target(scope)
    target = dropped.target_of(item("memories", "user-ann", "x"))
    assert target == Target(scope, namespace=("memories", "x"))
    alone = Mapping(module="chat", pattern="(?P<user>.+)", drop_labels=True)
    assert "no label of its namespace is left" in refused(alone, item("ann"))


# --- rules that cannot be meant


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"user": "ann", "pattern": "(?P<user>.+)"}, "Two rules tell the user"),
        ({"user": "ann", "function": owners_in_this_module}, "Two rules tell the user"),
        ({"pattern": "(?P<user>.+)(?P<session>.)(?P<thread>.)"}, "a session and a thread"),
        ({"pattern": "(?P<uid>.+)"}, "1 are others"),
        ({"pattern": "(.+)"}, "0 with names"),
        ({"pattern": "("}, "no regular expression"),
        ({"user": "ann", "drop_labels": True}, "no pattern says which"),
        ({"user": 7, "module": "chat"}, "user must be an id, as str, or a Field, got int"),
        ({"name": "all in one"}, "name must be a Field, got str"),
        ({"function": "app.nowhere:owner"}, "cannot be loaded"),
        ({"function": "app"}, "is named"),
        ({"table": "nowhere.csv"}, "cannot be read"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules: dict[str, Any], told: str):
    with pytest.raises(MappingRefused, match=told):
        Mapping(**rules)


def test_what_a_source_knows_of_owners_needs_no_rule_and_gives_way_to_one():
    known = Mapping().completed(["user", "module"])
    ruled = Mapping(module="chat").completed(["user", "module"])

    unit = session(user="ann", module="tutor")
    assert known.target_of(unit).scope == Scope("ann", "tutor")
    assert ruled.target_of(unit).scope == Scope("ann", "chat")


# --- files and digests


def test_a_mapping_file_says_the_same_as_the_arguments(tmp_path: Path):
    (tmp_path / "owners.csv").write_text("id,user\n1,ann\n")
    (tmp_path / "mapping.toml").write_text(
        """
        [mapping]
        table = "owners.csv"
        module = { path = "meta.mode" }
        project = "shop"
        """
    )

    read = Mapping.from_file(tmp_path / "mapping.toml")

    same = Mapping(table=tmp_path / "owners.csv", module=Field("meta.mode"), project="shop")
    assert read.digest == same.digest
    (tmp_path / "owners.csv").write_text("id,user\n1,bob\n")
    assert read.digest != Mapping.from_file(tmp_path / "mapping.toml").digest


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("user = ", "no TOML"),
        ("usr = 'ann'", "key that is not known"),
        ("user = 7", "must not be int"),
        ("name = 'all in one'", "must not be str"),
        ("user = { table = 'owner' }", "must be an id or"),
    ],
)
def test_a_mapping_file_that_is_not_understood_is_refused(tmp_path: Path, content: str, told: str):
    (tmp_path / "mapping.toml").write_text(content)

    with pytest.raises(MappingRefused, match=told):
        Mapping.from_file(tmp_path / "mapping.toml")


def test_nothing_of_a_mapping_is_in_its_repr():
    mapping = Mapping(user=SECRET, module="chat", pattern="(?P<session>secret.+)")

    assert SECRET not in repr(mapping)
    assert "secret" not in repr(mapping)
    assert SECRET not in repr(mapping.target_of(session("secret 1")))
