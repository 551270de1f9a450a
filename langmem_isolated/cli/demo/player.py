"""Plays conversations into one database, and shows section by section who sees what."""

import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import Any

from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from rich.console import Console
from rich.progress import track

from langmem_isolated.cli.demo import attack
from langmem_isolated.cli.demo.agents import an_agent_with_tools
from langmem_isolated.cli.demo.conversations import (
    Conversation,
    Place,
    Turn,
    read_conversations,
    with_shared_session,
)
from langmem_isolated.cli.demo.retrieval import looking_for_what_was_said
from langmem_isolated.cli.demo.sections import (
    STRANGER,
    Before,
    Run,
    Section,
    Spent,
    history,
    listed,
    one_session_id,
    rows_that_were_changed,
    texts_of,
    time_per_turn,
    what_a_thief_reads,
    what_each_user_sees,
    what_the_others_see,
)
from langmem_isolated.cli.terminal import cell
from langmem_isolated.memory import IsolatedMemory
from langmem_isolated.root_keys import (
    ROOT_KEY_VARIABLE,
    LocalRootKey,
    RootKey,
    root_key_from_environment,
)
from langmem_isolated.scope import Scope

# Reads of one user's session by another take some 100 µs each; of more than this a sample is made.
_MOST_TRIES = 5_000


# A part of the package that is new adds its own.
SECTIONS: tuple[Callable[[Run], Section], ...] = (
    what_each_user_sees,
    what_the_others_see,
    one_session_id,
    an_agent_with_tools,
    looking_for_what_was_said,
    what_a_thief_reads,
    rows_that_were_changed,
    time_per_turn,
)


def run(console: Console, url: str | None, file: Path | None) -> bool:
    """Play conversations into a database and show what is seen; whether every claim holds.

    Args:
        console: Where to show it.
        url: The database; by default an SQLite file in a temporary folder.
        file: The conversations, as :func:`read_conversations` takes them; by default our own.

    Raises:
        ConversationsUnusable: The file is malformed; the database was not opened.
        LangmemIsolatedError: The root key or the database refuses.
    """
    conversations = with_shared_session(read_conversations(file))
    with tempfile.TemporaryDirectory(prefix="langmem-isolated-") as folder:
        key = _root_key(console, keeps=url is not None)
        with IsolatedMemory(url or f"sqlite:///{folder}/demo.db", root_key=key) as memory:
            _introduce(console, conversations, url)
            return _show(console, _play(console, memory, conversations))


def _root_key(console: Console, *, keeps: bool) -> RootKey:
    if any(name in os.environ for name in (ROOT_KEY_VARIABLE, f"{ROOT_KEY_VARIABLE}_FILE")):
        return root_key_from_environment()
    _say(console, f"{ROOT_KEY_VARIABLE} is not set: this run makes a root key and throws it away.")
    if keeps:
        _say(
            console,
            "What it writes into the database you gave will be unreadable afterwards, and a new "
            "database stays bound to the lost key. `langmem-isolated keygen` makes one to keep.",
            "bold yellow",
        )
    return LocalRootKey.from_text(LocalRootKey.generate_text())


def _introduce(console: Console, conversations: list[Conversation], url: str | None) -> None:
    scopes = {conversation.place.scope for conversation in conversations}
    users = {scope.user_id for scope in scopes}
    messages = sum(len(conversation.messages) for conversation in conversations)
    _say(
        console,
        f"{len(conversations)} conversations with {messages} messages, held by {len(users)} users "
        f"in {len(scopes)} scopes (a user in a module), go into "
        f"{'the database you gave' if url else 'an SQLite file in a temporary folder'}.",
    )


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(cell(text, style), highlight=False)


def _play(console: Console, memory: IsolatedMemory, conversations: list[Conversation]) -> Run:
    """Note what the database holds, then talk: a turn of each conversation after the other."""
    tries = _tries([conversation.place for conversation in conversations])
    before = _look(memory, conversations, tries)
    rounds = zip_longest(*(conversation.turns() for conversation in conversations))
    turns = [turn for turn in chain.from_iterable(rounds) if turn]
    spent = list(_talk(memory, turns, console))
    return Run(memory, conversations, tries, before, spent)


def _tries(places: list[Place]) -> list[Place]:
    """Every session id with every scope that it does not belong to, or a sample of them."""
    scopes = dict.fromkeys([*(place.scope for place in places), STRANGER])
    tries = [
        Place(scope, place.session_id)
        for scope, place in product(scopes, places)
        if scope != place.scope
    ]
    tries = list(dict.fromkeys(tries))
    if len(tries) <= _MOST_TRIES:
        return tries
    return random.Random(0).sample(tries, _MOST_TRIES)  # noqa: S311 - no secret


def _look(memory: IsolatedMemory, conversations: list[Conversation], tries: list[Place]) -> Before:
    places = dict.fromkeys([*tries, *(conversation.place for conversation in conversations)])
    files = attack.stored(memory._database).values()
    pieces = attack.pieces_of(filter(attack.is_searchable, texts_of(conversations)))
    return Before(
        {place: history(memory, place).messages for place in places},
        {place.scope: listed(memory, place.scope) for place in places},
        set().union(*(attack.found_in(file, pieces) for file in files)),
    )


def _talk(memory: IsolatedMemory, turns: list[Turn], console: Console) -> Iterator[Spent]:
    """Let the chain answer, turn by turn; the same chain with an in-memory history beside it."""
    answered = [turn for turn in turns if turn.heard and turn.reply]
    with warnings.catch_warnings():
        # Deprecated in langchain-core, but still the line by which a chain gains memory.
        warnings.simplefilter("ignore", DeprecationWarning)
        in_memory = {turn.place: InMemoryChatMessageHistory() for turn in answered}
        ours = _chain(answered, memory, memory.session_history)
        plain = _chain(answered, memory, partial(_in_memory, in_memory))
    for turn in track(turns, "Talking", console=console):
        if turn.heard and turn.reply:
            yield Spent(turn.place.scope, _timed(ours, turn), _timed(plain, turn))
        else:
            history(memory, turn.place).add_messages([*turn.heard, *filter(None, [turn.reply])])


def _chain(turns: list[Turn], memory: IsolatedMemory, factory: Callable[..., Any]) -> Any:
    """An ordinary chain of prompt and model; the model is offline and says the replies in turn."""
    prompt = ChatPromptTemplate(
        [
            ("system", "You are a helpful assistant."),
            MessagesPlaceholder("history"),
            MessagesPlaceholder("heard"),
        ]
    )
    return RunnableWithMessageHistory(
        prompt | GenericFakeChatModel(messages=iter([t.reply for t in turns if t.reply])),
        factory,
        input_messages_key="heard",
        history_messages_key="history",
        history_factory_config=memory.history_config,
    )


def _in_memory(
    histories: dict[Place, Any], *, user_id: str, module_id: str, session_id: str
) -> Any:
    return histories[Place(Scope(user_id, module_id), session_id)]


def _timed(answering: Any, turn: Turn) -> float:
    began = time.perf_counter()
    answering.invoke({"heard": turn.heard}, {"configurable": turn.place.address()})
    return time.perf_counter() - began


def _show(console: Console, played: Run) -> bool:
    claims: list[bool] = []
    for make in SECTIONS:
        section = make(played)
        console.rule(section.title, align="left")
        for shown in section.tables:
            console.print(shown)
        for claim, holds in section.claims.items():
            _say(console, f"  {'✓' if holds else '✗'} {claim}", "green" if holds else "bold red")
        claims += section.claims.values()
    held = sum(claims)
    console.rule()
    _say(
        console,
        f"{held} of {len(claims)} claims hold.",
        "bold green" if all(claims) else "bold red",
    )
    return all(claims)
