"""The class as it was: a dict in memory, and a JSON file for each user. Kept for comparison."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class UserAgent:
    """One user's agent.

    What is wrong with it: whoever has the folder reads everybody; an id such as ``../bob`` leads
    elsewhere; two processes overwrite what the other has saved; nothing can be erased from a copy.

    Args:
        user_id: Whose.
        folder: Where the files are.
    """

    def __init__(self, user_id: str, folder: Path = Path("agents")) -> None:
        self.user_id = user_id
        self._path = folder / f"{user_id}.json"
        self._data: dict[str, Any] = {"messages": [], "facts": []}
        if self._path.exists():
            self._data = json.loads(self._path.read_text(encoding="utf-8"))

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Roles and texts, the oldest first."""
        return [(message["role"], message["content"]) for message in self._data["messages"]]

    @property
    def facts(self) -> list[str]:
        """What is known of the user."""
        return list(self._data["facts"])

    def add(self, role: str, text: str) -> None:
        """Add a message: what the ``user``, the ``assistant`` or the ``system`` said."""
        now = datetime.now(UTC).isoformat()
        self._data["messages"].append({"role": role, "content": text, "time": now})

    def learn(self, fact: str) -> None:
        """Add a fact."""
        if fact not in self._data["facts"]:
            self._data["facts"].append(fact)

    def save(self) -> None:
        """Write the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._data), encoding="utf-8")

    def recall(self, query: str, limit: int = 5) -> list[str]:
        """The messages that share most words with a question."""
        asked = set(query.lower().split())
        shared = [(len(asked & set(text.lower().split())), text) for _, text in self.messages]
        return [text for count, text in sorted(shared, reverse=True) if count][:limit]
