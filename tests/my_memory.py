"""My-memory pages under test: somebody with memory of every kind, and who is logged in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from starlette.requests import Request
from starlette.testclient import TestClient

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.admin import memory_app
from langmem_isolated.scope import Scope
from tests.embeddings import NGramEmbeddings

SECRET = bytes(range(32))
_HREF = re.compile(r'href="([^"#]+)"')
_ACTION = re.compile(r'<form method="post"(?: action="([^"]*)")?[^>]*>(.*?)</form>', re.DOTALL)
_FIELD = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')


def scope_of_header(request: Request) -> Scope | None:
    """Whose session it is; a header stands for a login."""
    user = request.headers.get("who")
    return None if user is None else Scope(user, "tutor")


def client_of(memory: IsolatedMemory, **options: Any) -> TestClient:
    """A browser without scripts, at pages of whoever its header `who` names."""
    app = memory_app(memory, scope_of=scope_of_header, secret=SECRET, **options)
    return TestClient(app, follow_redirects=False, raise_server_exceptions=False)


class Person:
    """Somebody who is logged in, and fills in forms as they are on the pages."""

    def __init__(self, client: TestClient, user: str, base: str = "") -> None:
        self._client, self._headers, self._base = client, {"who": user}, base

    def get(self, path: str) -> Any:
        """A page."""
        return self._client.get(path, headers=self._headers)

    def post(self, path: str, **fields: str) -> Any:
        """A form with this person's token."""
        token = fields_of(self.get(f"{self._base}/forget").text)["csrf_token"]
        data = {"csrf_token": token, **fields}
        return self._client.post(path, data=data, headers=self._headers)

    def confirm(self, path: str, **fields: str) -> Any:
        """A form whose question is answered with yes, as the page that asks it has it."""
        asked = self.post(path, **fields)
        assert asked.status_code == 200, asked.text
        return self._client.post(path, data=fields_of(asked.text), headers=self._headers)

    def path_to(self, *labels: str) -> str:
        """Where links of these names lead, from the first page on."""
        path = "/"
        for label in labels:
            links = dict(reversed(named_links(self.get(path).text)))
            path = next(target for name, target in links.items() if label in name)
        return path

    def form(self, page: str, part: str) -> str:
        """Where a form of a page leads whose address has ``part`` in it."""
        return next(path for path, _ in forms_of(self.get(page).text) if part in path)


def named_links(html: str) -> list[tuple[str, str]]:
    """The links of a page by what is written on them."""
    found = re.findall(r'<a [^>]*?href="([^"#]+)"[^>]*>(.*?)</a>', html, re.DOTALL)
    return [(unescape(label).strip(), unescape(target)) for target, label in found]


def links_of(html: str) -> list[str]:
    """Where a page leads."""
    return [unescape(target) for target in _HREF.findall(html)]


def forms_of(html: str) -> list[tuple[str, dict[str, str]]]:
    """The forms of a page that are sent by POST: where, and with which hidden fields."""
    return [(unescape(action), fields_of(body)) for action, body in _ACTION.findall(html)]


def fields_of(html: str) -> dict[str, str]:
    """The hidden fields of the first form."""
    return {name: unescape(value) for name, value in _FIELD.findall(html)}


def walked(person: Person, begin: str = "/") -> Iterator[tuple[str, Any]]:
    """Every page to which links lead, once."""
    waiting, seen = [begin], {begin}
    while waiting:
        path = waiting.pop()
        if "/static/" in path:
            continue
        answer = person.get(path)
        yield path, answer
        base = path.partition("?")[0]
        targets = (base + one if one.startswith("?") else one for one in links_of(answer.text))
        new = [one for one in targets if one not in seen]
        seen |= {*new}
        waiting += new


def remember(memory: IsolatedMemory, user: str, mark: str = "") -> ScopedMemory:
    """Memory of every kind that these pages show, in two modules; each text has ``mark``."""
    tutor = memory.scope(user_id=user, module_id="tutor")
    _converse(tutor, mark)
    profile = tutor.profile()
    profile.add_fact(f"Likes chess. {mark}", source=f"user{mark}", session_id=f"s{mark}")
    profile.add_interest(f"Go {mark}")
    profile.set_attribute(f"level{mark}", {f"of{mark}": mark or 3})
    profile.set_summary(f"A pupil. {mark}")
    tutor.cross_module().add_fact(f"Speaks German. {mark}")
    tutor.store().put((f"facts{mark}", "school"), f"key{mark}", {f"name{mark}": mark or 1})
    store = tutor.vector_store(NGramEmbeddings(8), collection=f"notes{mark}")
    store.add_texts([f"Fractions are parts. {mark}"], [{f"page{mark}": mark}], ids=[f"id{mark}"])
    planner = tutor.module(f"planner{mark}")
    planner.chat_history("monday").add_user_message(f"When? {mark}")
    modules = {"from_module": "tutor", "to_module": f"planner{mark}"}
    memory.grants.allow(
        user_id=user,
        kinds=["message", "item"],
        fields={"channels": [f"web{mark}"], "namespaces": [(f"facts{mark}",)]},
        until=timedelta(days=1),
        **modules,
    )
    return tutor


def _converse(tutor: ScopedMemory, mark: str) -> None:
    tutor.sessions.create(f"s{mark}", title=f"Fractions {mark}", channel=f"web{mark}")
    call = {"name": f"look{mark}", "args": {f"at{mark}": mark}, "id": "c1"}
    tutor.chat_history(f"s{mark}").add_messages(
        [
            HumanMessage(f"What is a half? {mark}", name=f"Ann{mark}"),
            AIMessage(f"One of two. {mark}", tool_calls=[call]),
            ToolMessage(f"0.5 {mark}", tool_call_id="c1"),
        ]
    )
    graph = StateGraph(MessagesState).add_node("answer", _answer).add_edge(START, "answer")
    config = {"configurable": {"thread_id": f"t{mark}"}}
    bound = tutor.bind(graph.compile())
    bound.invoke({"messages": [("human", f"Plan my week. {mark}")]}, config)
    tutor.checkpointer().rename_thread(f"t{mark}", f"Plans {mark}")


def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("ai", f"You said: {state['messages'][-1].content}")]}
