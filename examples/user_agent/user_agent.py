"""The class as it is: the same public face, and each user's memory apart, sealed, in a database."""

from functools import cache
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langmem_isolated import IsolatedMemory

MODULE, SESSION = "agent", "conversation"
MESSAGES: dict[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
}
_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


@cache
def memory_of_application() -> IsolatedMemory:
    """The one memory of the process, as the environment describes it."""
    return IsolatedMemory.from_environment()


class UserAgent:
    """One user's agent; making one reads nothing.

    Args:
        user_id: Whose, from your authentication.
        memory: Where; by default that of the application.

    Raises:
        ScopeError: ``user_id`` is missing or malformed.
    """

    def __init__(self, user_id: str, memory: IsolatedMemory | None = None) -> None:
        self._scope = (memory or memory_of_application()).scope(user_id=user_id, module_id=MODULE)
        # By id: a save that is tried again, after an error on the way, stores nothing twice.
        self._history = self._scope.chat_history(SESSION, idempotent=True)
        self._profile = self._scope.profile()
        self._added: list[BaseMessage] = []
        self._learned: list[str] = []

    @property
    def user_id(self) -> str:
        """Whose agent it is."""
        return self._scope.scope.user_id

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Roles and texts, the oldest first, with what is not saved yet behind."""
        said = [*self._history.messages, *self._added]
        return [(_ROLES.get(message.type, message.type), message.text) for message in said]

    @property
    def facts(self) -> list[str]:
        """What is known of the user, with what is not saved yet behind."""
        known = [fact.text for fact in self._profile.facts()]
        return [*dict.fromkeys([*known, *self._learned])]

    def add(self, role: str, text: str) -> None:
        """Add a message: what the ``user``, the ``assistant`` or the ``system`` said.

        Raises:
            ValueError: The role is none of the three; nothing was added.
        """
        if role not in MESSAGES:
            raise ValueError(
                f"role must be one of {', '.join(MESSAGES)}, got another text of "
                f"{len(role)} characters. Nothing was added."
            )
        self._added.append(MESSAGES[role](text, id=str(uuid4())))

    def learn(self, fact: str) -> None:
        """Add a fact; one that is known gets another source when it is saved."""
        self._learned.append(fact)

    def save(self) -> None:
        """Store what was added behind what is stored; nothing of others is overwritten."""
        if self._added:
            self._history.add_messages(self._added)
            self._added = []
        if self._learned:
            self._profile.add_facts(self._learned, source="user")
            self._learned = []

    def recall(self, query: str, limit: int = 5) -> list[str]:
        """The messages that fit a question, best first; what was added is saved before."""
        self.save()
        return [found.text for found in self._scope.recall(query, limit=limit)]
