import copy
import dataclasses
import itertools
import pickle
import sys
import unicodedata
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from langmem_isolated import IsolatedMemory, Scope
from langmem_isolated.errors import LangmemIsolatedError, ScopeError
from langmem_isolated.scope import MAX_ID_BYTES, checked_id

PARTS = ("user_id", "module_id", "project_id")


class Text(str):
    __slots__ = ()

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Module(StrEnum):
    TUTOR = "tutor"


NOT_TEXT = [None, b"alice", 7, 0, True, 1.5, ["alice"], object(), Text("alice"), Module.TUTOR]
CONTROLS = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0))]
SURROGATES = ["\ud800", "\udbff", "\udc00", "\udfff"]
NOT_NFC = ["e\u0301", "\u212b", "\u1100\u1161", "\u0344", "q\u0307\u0323"]
HOSTILE = [
    "1", "12", "a_b", "axb", "a:b", "%", "*", "_", "'", '"', "';--", "\\", "/", "..", " ", "a ",
    "null", "None", "default", "\u200b", "\u202e", "\U0001f600", "é", "İ", "ß", "\uffff",
]  # fmt: skip


def scope_with(part: str, value: object) -> Scope:
    return Scope(**{"user_id": "alice", "module_id": "tutor", part: value})


def is_an_id(text: str) -> bool:
    """The rule once more, from the Unicode database's own words."""
    return (
        1 <= len(text.encode("utf-8", "surrogatepass")) <= 255
        and unicodedata.normalize("NFC", text) == text
        and not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text)
        and not any(0xD800 <= ord(c) < 0xE000 for c in text)
    )


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", HOSTILE)
def test_an_id_may_look_hostile_and_is_kept_as_it_is(part: str, value: str):
    assert getattr(scope_with(part, value), part) == value


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", NOT_TEXT, ids=lambda value: type(value).__name__)
def test_an_id_that_is_not_exactly_a_str_is_refused(part: str, value: object):
    with pytest.raises(ScopeError, match=f"{part} must be .* got {type(value).__name__}"):
        scope_with(part, value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", ["", *CONTROLS, *SURROGATES, *NOT_NFC], ids=ascii)
def test_text_that_cannot_be_an_id_is_refused(part: str, value: str):
    for text in (value, f"a{value}b" if value else value):
        with pytest.raises(ScopeError, match=f"^{part} must be"):
            scope_with(part, text)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("character", ["a", "é", "€", "\U0001f600"])
def test_an_id_has_at_most_255_bytes_of_utf8(part: str, character: str):
    width = len(character.encode())
    longest = character * (MAX_ID_BYTES // width) + "a" * (MAX_ID_BYTES % width)

    assert len(getattr(scope_with(part, longest), part).encode()) == 255
    with pytest.raises(ScopeError, match=r"got 256 (bytes|characters)"):
        scope_with(part, f"{longest}a")


def test_a_very_long_id_is_refused_without_looking_through_it():
    steps, before = itertools.count(), sys.gettrace()

    def counting(*_: object) -> Any:
        next(steps)
        return counting

    sys.settrace(counting)
    try:
        with pytest.raises(ScopeError, match="got 1000000 characters"):
            checked_id("user_id", "\u00e9" * 1_000_000)
    finally:
        sys.settrace(before)

    # Lines that were run: each character that is looked at takes one or more.
    assert next(steps) < 100_000


@given(st.text(st.characters(exclude_categories=()), max_size=300))
@example("\ud800")
@example("é" * 127 + "a")
@example("é" * 128)
@example("e\u0301")
def test_any_text_is_either_an_id_as_it_stands_or_refused(text: str):
    if is_an_id(text):
        assert checked_id("user_id", text) == text
    else:
        with pytest.raises(ScopeError):
            checked_id("user_id", text)


@given(st.text(min_size=8, max_size=300))
def test_a_refusal_never_quotes_the_value(text: str):
    refused = f"{text}\x00"
    with pytest.raises(ScopeError) as caught:
        checked_id("user_id", refused)

    assume(text not in "must be a non-empty str control characters or lone surrogates")
    assert text not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_two_ids_that_look_alike_never_become_one():
    composed, decomposed = "Zo\u00eb", "Zoe\u0308"

    assert Scope(composed, "tutor").user_id == composed
    with pytest.raises(ScopeError, match="not NFC"):
        Scope(decomposed, "tutor")


def test_a_scope_shows_no_id():
    scope = Scope("alice", "tutor", project_id="school")

    for shown in (repr(scope), str(scope), f"{scope}", f"{scope!r}"):
        assert not any(name in shown for name in ("alice", "tutor", "school"))


def test_a_scope_cannot_be_changed():
    scope = Scope("alice", "tutor")

    for part in PARTS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(scope, part, "mallory")
    with pytest.raises((AttributeError, TypeError)):
        scope.other = "mallory"  # type: ignore[attr-defined]


def test_scopes_are_equal_and_hash_alike_when_all_parts_are_equal():
    assert Scope("alice", "tutor") == Scope("alice", "tutor", project_id="default")
    assert len({Scope("alice", "tutor"), Scope("alice", "tutor")}) == 1
    assert Scope("alice", "tutor") != Scope("tutor", "alice")
    assert Scope("alice", "tutor") != Scope("alice", "tutor", project_id="school")
    assert Scope("alice", "tutor") != ("alice", "tutor", "default")


def test_a_scope_goes_through_copies_and_processes_as_itself():
    scope = Scope("alice", "tutor", project_id="school")

    assert pickle.loads(pickle.dumps(scope)) == scope
    assert copy.deepcopy(scope) == scope
    with pytest.raises(ScopeError):
        dataclasses.replace(scope, user_id="")


def test_the_project_is_given_by_name_only():
    with pytest.raises(TypeError):
        Scope("alice", "tutor", "school")  # type: ignore[misc]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"user_id": "alice"},
        {"module_id": "tutor"},
        {"user_id": None, "module_id": "tutor"},
        {"user_id": "alice", "module_id": ""},
        {"user_id": "alice", "module_id": "tutor", "project_id": None},
        {"user_id": Text("alice"), "module_id": "tutor"},
    ],
)
def test_a_memory_gives_no_handle_without_a_whole_scope(tmp_path, root_key, arguments):
    file = tmp_path / "memory.db"
    memory = IsolatedMemory(f"sqlite:///{file}", root_key=root_key)

    with pytest.raises(ScopeError):
        memory.scope(**arguments)

    assert not file.exists()


@pytest.mark.parametrize("scope", [("alice", "tutor"), "alice", {"user_id": "alice"}, 7])
def test_a_memory_takes_nothing_but_a_scope_for_a_scope(tmp_path, root_key, scope):
    memory = IsolatedMemory(f"sqlite:///{tmp_path}/memory.db", root_key=root_key)

    with pytest.raises(ScopeError, match=f"got {type(scope).__name__}"):
        memory.scope(scope)


def test_a_scope_is_not_mixed_with_names(tmp_path, root_key):
    memory = IsolatedMemory(f"sqlite:///{tmp_path}/memory.db", root_key=root_key)

    for names in ({"user_id": "mallory"}, {"module_id": "planner"}, {"project_id": "school"}):
        with pytest.raises(ScopeError):
            memory.scope(Scope("alice", "tutor"), **names)


def test_a_scope_error_is_a_value_error_and_one_of_ours():
    assert issubclass(ScopeError, ValueError)
    assert issubclass(ScopeError, LangmemIsolatedError)
