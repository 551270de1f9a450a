"""Sightings: who saw whose canary, where, and in which run."""

import threading
from collections import Counter, defaultdict
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Self

from langmem_isolated.testing.canaries import Canaries, Canary
from langmem_isolated.testing.visible import texts_in

_SHOWN = 8
LOG = "the log"
_GIVEN = ("HumanMessage", "_start (", "(input")
"""In paths of what a run was given, which it shows again without having answered."""
_ADVICE = (
    "Look at what the first of these runs shares with the runs before it: a saver or store that "
    "is asked without the user, a cache, a global, a log."
)


@dataclass(frozen=True)
class Turn:
    """One run of the application: who says what, where, and how it is called."""

    number: int
    user: str
    session: str
    text: str
    way: str
    phase: str

    def __str__(self) -> str:
        return (
            f'run {self.number}: {self.user} in session "{self.session}", by {self.way}, '
            f"{self.phase}"
        )


CURRENT: ContextVar[Turn | None] = ContextVar("langmem_isolated_testing_turn", default=None)
"""The run that this thread or task belongs to, for what is logged in it."""


@dataclass(frozen=True)
class Sighting:
    """A canary that was seen by whom it is not for.

    Args:
        seer: The user who saw it, or "the log".
        owner: Whose it is.
        label: What the canary is called.
        where: In what: a reply, a streamed chunk, a state, an error, a header, a log record.
        form: How it was written there.
        run: The run in which it was seen.

    >>> print(Sighting("bob", "alice", "alice, message 1", "reply", "as it is", "run 2"))
    bob saw alice's canary (alice, message 1) in reply, as it is; run 2
    """

    seer: str
    owner: str
    label: str
    where: str
    form: str
    run: str

    def __str__(self) -> str:
        return (
            f"{self.seer} saw {self.owner}'s canary ({self.label}) in {self.where}, {self.form}; "
            f"{self.run}"
        )


class LeakFound(AssertionError):
    """A user, or a log, saw what another user said.

    Args:
        sightings: Each of them, in the order of the runs; see :class:`Sighting`.

    >>> said = []
    >>> def app(user, session, text):
    ...     said.append(text)
    ...     return " ".join(said)
    >>> with pytest.raises(LeakFound) as caught:
    ...     assert_isolated(app)
    >>> {(one.seer, one.owner) for one in caught.value.sightings} >= {("bob", "alice")}
    True
    """

    def __init__(self, sightings: list[Sighting]) -> None:
        self.sightings = sightings
        crossed = Counter(f"{one.seer} from {one.owner}" for one in sightings)
        more = len(sightings) - _SHOWN
        super().__init__(
            "\n".join(
                [
                    f"Users are not isolated: {len(sightings)} sightings, {_counted(crossed)}.",
                    *(f"  {one}" for one in sightings[:_SHOWN]),
                    *([f"  and {more} more, in .sightings"] if more > 0 else []),
                    _ADVICE,
                ]
            )
        )


def _counted(crossed: Counter[str]) -> str:
    shown = [f"{who} {times}" for who, times in crossed.most_common(_SHOWN)]
    return ", ".join([*shown, *(["and others"] * (len(crossed) > _SHOWN))])


class NothingSeen(AssertionError):
    """A user never saw again what they had said: a leak could not have been seen either.

    Args:
        users: Who did not.
        errors: How often runs raised, by the type of the error.

    >>> with pytest.raises(NothingSeen, match="EchoChatModel"):
    ...     assert_isolated(lambda user, session, text: "I have noted that.")
    """

    def __init__(self, users: list[str], errors: Counter[str]) -> None:
        self.users = users
        self.errors = errors
        raised = ", ".join(f"{name} {times} times" for name, times in errors.items()) or "none"
        super().__init__(
            f"{', '.join(users)} never saw a canary of their own, so it would not have been seen "
            f"if somebody else's had been there. Errors: {raised}. Give the application an "
            "EchoChatModel, which says all that its prompt holds, and look at the first error, "
            "which is this one's cause; or, if what users say is never to come back, "
            "echoes=False."
        )


@dataclass
class Watch:
    """Looks through all that is seen, in any thread, and notes which canary was seen by whom."""

    owners: dict[Canary, str] = field(default_factory=dict)
    sightings: list[Sighting] = field(default_factory=list)
    own: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0
    """Texts, each once for each who saw it."""

    def __post_init__(self) -> None:
        self._canaries = Canaries()
        self._lock = threading.Lock()
        self._noted: set[tuple[str, ...]] = set()
        self._clean: set[tuple[str, str]] = set()

    def hand_out(self, canary: Canary, owner: str) -> str:
        """Give ``owner`` a canary to say; its text."""
        self.owners[self._canaries.add(canary)] = owner
        return canary.text

    @property
    def canaries(self) -> tuple[Canary, ...]:
        """All that were handed out."""
        return tuple(self.owners)

    def look(self, seer: str, where: str, text: str, run: str) -> None:
        """Note whose canaries are in a text."""
        # Most texts are names and ids that come with every run.
        if (seer, text) in self._clean:
            return
        found = self._canaries.found_in(text)
        if found and self._canaries.found_in(where):
            where = "what has one in its name"
        with self._lock:
            self.looked_at += 1
            for canary, form in found:
                self._note(Sighting(seer, self.owners[canary], canary.label, where, form, run))
            if all(self.owners[canary] == seer for canary, _ in found):
                self._clean.add((seer, text))

    def _note(self, sighting: Sighting) -> None:
        if sighting.seer == sighting.owner:
            self.own[sighting.owner] += not any(part in sighting.where for part in _GIVEN)
            return
        # Once a run and place: a reply that holds ten of them is one leak.
        key = (sighting.seer, sighting.owner, sighting.where, sighting.run)
        if key not in self._noted:
            self._noted.add(key)
            self.sightings.append(sighting)


class Eye:
    """What one run shows to its user."""

    def __init__(self, watch: Watch, turn: Turn) -> None:
        self._watch, self._turn = watch, turn
        self._streamed: defaultdict[str, list[str]] = defaultdict(list)

    def sees(self, what: str, value: object) -> None:
        """Look through a value that came whole."""
        for path, text in texts_in(value):
            self._look(what, path, text)

    def streams(self, what: str, value: object) -> None:
        """Look through a part of a stream, and, when it ends, through what its parts make."""
        for path, text in texts_in(value):
            self._streamed[f"{what}\0{path}"].append(text)
            self._look(what, path, text)

    def close(self) -> None:
        """Look through what the parts of streams make together."""
        for key, parts in self._streamed.items():
            if len(parts) > 1:
                what, _, path = key.partition("\0")
                self._look(f"{what}s joined", path, "".join(parts))
        self._streamed.clear()

    def _look(self, what: str, path: str, text: str) -> None:
        where = f"{what} ({path.lstrip('.')})" if path else what
        self._watch.look(self._turn.user, where, text, str(self._turn))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def current_run() -> str:
    """The run that what is logged now belongs to."""
    turn = CURRENT.get()
    return str(turn) if turn else "in no run of its own"
