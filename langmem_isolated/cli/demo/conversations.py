"""Reads conversations from files, all of them or none: what is malformed is named by its place."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage

from langmem_isolated._codecs.messages import encode_message
from langmem_isolated.errors import LangmemIsolatedError, ScopeError, SourceRefused
from langmem_isolated.importers import (
    ForeignUnit,
    Rejected,
    detect_source,
    openai_message,
)
from langmem_isolated.lifecycle import ForeignSession
from langmem_isolated.scope import Scope, checked_id

# The kind of source that reads what is read here, too, with its users.
_OUR_SHAPES = "openai-jsonl"
USERS = ("ann@example.org", "bob@example.org")
MODULES = ("study-tutor", "trip-planner")

# What says whose a message or a conversation is.
_ADDRESS = {"user_id", "module_id", "session_id"}


SHAPES = (
    'A conversation is {"messages": [{"role": …, "content": …}, …]}, as in OpenAI\'s files, or the '
    "list of messages alone. A file is JSON, one conversation or a list of them, or JSON lines "
    "with a conversation each; a conversation may have user_id, module_id and session_id. Or it is "
    "a list or lines of messages that each have user_id, module_id, session_id, role and content. "
    "Or it is what a product exported, as import reads it."
)
"""What a file of conversations may look like."""


class ConversationsUnusable(LangmemIsolatedError):
    """A file of conversations is malformed; it was read to here and nothing was written."""

    def __init__(self, where: str, problem: str, hint: str = SHAPES) -> None:
        super().__init__(
            f"The conversations cannot be used: {where}: {problem.rstrip('.')}. "
            f"Nothing was written. {hint}".rstrip()
        )
        self.where = where


class Place(NamedTuple):
    """Where a conversation is held."""

    scope: Scope
    session_id: str

    def address(self) -> dict[str, str]:
        """What a chain's ``configurable`` takes."""
        return {
            "user_id": self.scope.user_id,
            "module_id": self.scope.module_id,
            "session_id": self.session_id,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Turn:
    """What was said up to a reply, and the reply; ``None`` when nobody replied."""

    place: Place
    heard: list[BaseMessage]
    reply: AIMessage | None


@dataclass(frozen=True, slots=True, repr=False)
class Conversation:
    """The messages of one session, each with an id."""

    place: Place
    messages: list[BaseMessage]

    def turns(self) -> Iterator[Turn]:
        """The messages in turns; together these hold every message once, in order."""
        heard: list[BaseMessage] = []
        for message in self.messages:
            if isinstance(message, AIMessage):
                yield Turn(self.place, heard, message)
                heard = []
            else:
                heard.append(message)
        if heard:
            yield Turn(self.place, heard, None)


def read_conversations(file: Path | None) -> list[Conversation]:
    """The conversations in ``file``, or those that ship with the package.

    Args:
        file: In one of the shapes that :data:`SHAPES` names. Conversations without a ``user_id``
            are distributed over two users and two modules so that they use the same
            session ids. Content may be text, a list of parts, or null, which is empty text. Further
            fields of a message are kept as langchain-core keeps them.

    Raises:
        ConversationsUnusable: The file cannot be read, is malformed, or holds no message.
    """
    read = _exported(file) if file else None
    if read is None:
        text = _text_of(file) if file else _shipped()
        read = _from_json(text) if _is_one_document(text) else _from_lines(text)
    by_place: dict[Place, list[BaseMessage]] = {}
    for conversation in read:
        by_place.setdefault(conversation.place, []).extend(conversation.messages)
    conversations = [Conversation(*one) for one in by_place.items() if one[1]]
    if not conversations:
        raise ConversationsUnusable("the whole file", "there is no message in it")
    return conversations


def with_shared_session(conversations: list[Conversation]) -> list[Conversation]:
    """``conversations`` and, if no two users share a session id, one more user who takes the first.

    So there is always someone else, and always an id that LangChain alone would confuse.
    """
    holders = {(c.place.session_id, c.place.scope.user_id) for c in conversations}
    if len({session_id for session_id, _ in holders}) < len(holders):
        return conversations
    users = {user for _, user in holders}
    visitor = next(name for n in range(len(users) + 1) if (name := _visitor(n)) not in users)
    first = conversations[0].place
    place = Place(Scope(visitor, first.scope.module_id), first.session_id)
    return [*conversations, Conversation(place, _from_json(_shipped())[1].messages)]


def _exported(file: Path) -> list[Conversation] | None:
    """The conversations of a product's export; ``None`` of a file that says whose they are."""
    try:
        spec = detect_source(file)
    except SourceRefused:
        return None
    if spec.kind == _OUR_SHAPES:
        return None
    with spec.make(str(file)) as source:
        return [_of_session(unit, index) for index, unit in enumerate(source.units())]


def _of_session(unit: ForeignUnit | Rejected, index: int) -> Conversation:
    if not isinstance(unit, ForeignSession):
        reason = unit.reason if isinstance(unit, Rejected) else "it is no session"
        raise ConversationsUnusable(unit.place, reason)
    messages = []
    for found in unit.messages:
        if isinstance(found, Rejected):
            raise ConversationsUnusable(found.place, found.reason)
        messages.append(_storable(found.message, found.place))
    return Conversation(_place_by_turns(index), messages)


def _visitor(number: int) -> str:
    return f"visitor-{number + 1}@example.org"


def _shipped() -> str:
    return (files("langmem_isolated.cli.demo") / "conversations.json").read_text("utf-8")


def _text_of(file: Path) -> str:
    try:
        read = file.read_bytes()
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise ConversationsUnusable("the file", problem, hint="") from None
    try:
        return read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = read.count(b"\n", 0, error.start) + 1
        raise ConversationsUnusable(f"line {line}", "a byte that is not UTF-8") from None


def _is_one_document(text: str) -> bool:
    """Whether a file is one JSON document, as far as it is any; else it is read line by line."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            _check_first_line(text, error.lineno)
            return False
        return not _are_lines(text)
    except (ValueError, RecursionError):
        return True
    return True


def _check_first_line(text: str, another: int) -> None:
    try:
        json.loads(next(filter(str.strip, text.split("\n"))))
    except ValueError:
        problem = "another JSON value begins; put them into one list, or each into one line"
        raise ConversationsUnusable(f"line {another}", problem) from None


def _are_lines(text: str) -> bool:
    """Whether a malformed file was meant to hold an object in each line, or is empty."""
    first, second, *_ = [*islice(filter(str.strip, text.split("\n")), 2), "", ""]
    return not first or (second.startswith("{") and not first.rstrip().endswith(("[", "{", ",")))


def _from_json(text: str) -> list[Conversation]:
    document = _parsed(text)
    if isinstance(document, dict) and "messages" not in document:
        return _from_messages([(document, "line 1")])
    if isinstance(document, list) and any(map(_says_whose, document)):
        return _from_messages([(m, f"message {n}") for n, m in enumerate(document, 1)])
    is_list = isinstance(document, list) and not (document and _is_message(document[0]))
    entries = document if is_list else [document]
    return [
        _conversation(entry, f"conversation {number}", number - 1)
        for number, entry in enumerate(entries, 1)
    ]


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and "role" in value and "messages" not in value


def _says_whose(value: object) -> bool:
    return isinstance(value, dict) and "messages" not in value and "user_id" in value


def _conversation(entry: object, where: str, index: int) -> Conversation:
    messages = entry if isinstance(entry, list) else _mapping(entry, where).get("messages")
    if not isinstance(messages, list):
        raise ConversationsUnusable(where, _expected("messages to be a list", messages))
    read = [_message(m, f"{where}, message {n}") for n, m in enumerate(messages, 1)]
    if isinstance(entry, dict) and "user_id" in entry:
        return Conversation(_place(entry, where), read)
    return Conversation(_place_by_turns(index), read)


def _place_by_turns(index: int) -> Place:
    """Users take turns, then modules; then the next session id begins."""
    scope = Scope(USERS[index % 2], MODULES[index // 2 % 2])
    return Place(scope, f"session-{index // 4 + 1}")


def _from_lines(text: str) -> list[Conversation]:
    # Not splitlines(): it also splits at characters that may stand inside a JSON string.
    entries = [
        (_parsed(line, number), f"line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if entries and (isinstance(entries[0][0], list) or "messages" in _mapping(*entries[0])):
        return [_conversation(*entry, index) for index, entry in enumerate(entries)]
    return _from_messages(entries)


def _from_messages(entries: list[tuple[Any, str]]) -> list[Conversation]:
    """Conversations of messages that say themselves whose they are."""
    by_place: dict[Place, list[BaseMessage]] = {}
    for value, where in entries:
        entry = _mapping(value, where)
        if not _is_message(entry) and _ADDRESS.isdisjoint(entry):
            raise ConversationsUnusable(
                where, "expected an object with messages or role, got neither"
            )
        by_place.setdefault(_place(entry, where), []).append(_message(entry, where))
    return [Conversation(place, messages) for place, messages in by_place.items()]


def _place(entry: dict[str, Any], where: str) -> Place:
    """Take the address out of ``entry``."""
    user, module, session = (
        entry.pop(f"{name}_id", None) for name in ("user", "module", "session")
    )
    try:
        return Place(Scope(user, module), checked_id("session_id", session))
    except ScopeError as error:
        raise ConversationsUnusable(where, str(error)) from None


def _message(entry: object, where: str) -> BaseMessage:
    _mapping(entry, where)
    try:
        return _storable(openai_message(entry), where)
    except ValueError as error:
        raise ConversationsUnusable(where, str(error)) from None


def _storable(message: BaseMessage, where: str) -> BaseMessage:
    # Two people may say the same words: ids tell whose they are.
    message.id = message.id or str(uuid4())
    try:
        encode_message(message)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        problem = f"LangChain's message cannot be stored ({type(error).__name__})"
        raise ConversationsUnusable(where, problem) from None
    return message


def _parsed(text: str, line: int = 1) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1}, column {error.colno}"
        raise ConversationsUnusable(where, f"not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        problem = f"a number or a depth beyond JSON's ({type(error).__name__})"
        raise ConversationsUnusable(
            "the file" if "\n" in text else f"line {line}", problem
        ) from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConversationsUnusable(where, _expected("an object", value))
    return value


def _expected(what: str, received: object) -> str:
    return f"expected {what}, got {'nothing' if received is None else type(received).__name__}"
