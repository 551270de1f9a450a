"""Errors about the life of memory: what has ended, is held, shared or full."""

from collections.abc import Iterable
from datetime import datetime
from typing import Self

from langmem_isolated.errors.core import (
    IsolationViolation,
    LangmemIsolatedError,
    LimitExceeded,
)
from langmem_isolated.errors.database import DatabaseError


class QuotaExceeded(LangmemIsolatedError):
    """The user has used up a quota; the model was not asked."""

    def __init__(self, measure: str, limit: int, per: str, until: datetime) -> None:
        super().__init__(
            f"The quota of {limit:,} {measure} a {per} is used up. The model was not asked. The "
            f"next {per} begins {until:%Y-%m-%d %H:%M} UTC; memory.quotas.set(…) raises it."
        )
        self.measure, self.limit, self.per, self.until = measure, limit, per, until


class NotShared(IsolationViolation):
    """No grant in force lets the one module read this of the other: never, no more, or not so far.

    Which of these is told to nobody: it would tell of the other's memory.
    """

    def __init__(self, what: str = "") -> None:
        super().__init__(
            f"No grant in force lets the one module read {what or 'anything'} of the other. "
            "Nothing was handed out or changed. memory.grants.list(user_id=…) shows what is "
            "granted, memory.grants.allow(…) grants."
        )


class LegalHold(LangmemIsolatedError):
    """A user's memory is on legal hold: nothing of it is cleared, swept or erased."""

    def __init__(self) -> None:
        super().__init__(
            "This user's memory is on legal hold. Nothing was removed. Whoever ordered it can end "
            "it: memory.retention.release(user_id); memory.retention.holds() says who and why. On "
            "the command line: hold release, hold list."
        )


class PolicyNotFound(LangmemIsolatedError, KeyError):
    """There is no such retention policy, or no such legal hold.

    Args:
        what: What was looked for.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"There is no {what} there. Nothing was changed. memory.retention.list() and holds() "
            "say which there are."
        )

    __str__ = Exception.__str__


class AnonymousNotFound(LangmemIsolatedError, KeyError):
    """There is no anonymous session of that id; why is not told."""

    def __init__(self) -> None:
        super().__init__(
            "There is no anonymous session of that id: it has expired, was claimed, or never was. "
            "Nothing was read or written. memory.anonymous(module_id=…) begins another."
        )

    __str__ = Exception.__str__


class ThreadNotFound(LangmemIsolatedError, KeyError):
    """This scope has no LangGraph thread of that id."""

    def __init__(self) -> None:
        super().__init__(
            "This scope has no thread of that id. Nothing was changed. Expected one that "
            "checkpointer.threads() lists; the first run of a graph makes one."
        )

    __str__ = Exception.__str__


class SessionClosed(LangmemIsolatedError):
    """The session was closed: it is read as before, and takes no more messages."""

    def __init__(self) -> None:
        super().__init__(
            "The session is closed and takes no more messages. Nothing was written. "
            "scope.sessions.reopen(session_id) opens it again."
        )


class ProfileEntryNotFound(LangmemIsolatedError, KeyError):
    """This profile has no such fact, interest or attribute.

    >>> scope.profile().remove("0123456789abcdef")
    Traceback (most recent call last):
    langmem_isolated.errors.ProfileEntryNotFound: This profile has no such fact...
    """

    def __init__(self, told: str) -> None:
        super().__init__(
            f"{told} Nothing was changed. Read profile().contents() again: it lists what is there."
        )

    __str__ = Exception.__str__

    @classmethod
    def of(cls, what: str) -> Self:
        """For a ``what`` that is not there."""
        return cls(f"This profile has no such {what}.")


class ProfileEntryChanged(ProfileEntryNotFound):
    """Somebody else has changed a fact or attribute since it was read; theirs was kept."""

    @classmethod
    def of(cls, what: str) -> Self:
        """For a ``what`` that is another now."""
        return cls(f"This {what} was changed by somebody else since it was read.")


class ProfileFull(LimitExceeded):
    """A profile has no room for what was to be added.

    >>> small = IsolatedMemory("sqlite://", root_key=root_key, limits=Limits(profile_entries=1))
    >>> small.scope(user_id="alice", module_id="tutor").profile().add_facts(["Likes chess."])
    [Fact(...)]
    >>> small.scope(user_id="alice", module_id="tutor").profile().add_interest("Chess")
    Traceback (most recent call last):
    langmem_isolated.errors.ProfileFull: A profile has room for 1 ...
    >>> small.close()
    """

    def __init__(self, allowed: int, received: int) -> None:
        super().__init__("profile_entries", allowed, received)
        told = (
            f"A profile has room for {allowed:,} facts, interests and attributes together, and "
            f"this call would have made it {received:,}. Nothing of it was written. Remove or "
            "merge some, or allow more: IsolatedMemory(…, limits=Limits(profile_entries=…))."
        )
        self.args = (told,)

    def again(self) -> "ProfileFull":
        """The same without a traceback, whose frames would keep the value."""
        return ProfileFull(self.allowed, self.received)


class ReceiptNotFound(LangmemIsolatedError, KeyError):
    """There is no such receipt: it was undone, or is older than 30 days, or is another's."""

    def __init__(self) -> None:
        super().__init__(
            "There is no such receipt: what it stands for was undone, or is older than 30 days. "
            "Nothing was changed. memory.receipts(user_id=…) lists those that are there."
        )

    __str__ = Exception.__str__


class BackupRefused(DatabaseError):
    """A backup cannot be written to where it was told to; what is there stays as it is."""

    def __init__(self, why: str) -> None:
        super().__init__(f"No backup was written. {why}")


class BackupElsewhere(DatabaseError):
    """PostgreSQL has backups of its own; the message is what to run.

    Args:
        what: What is on PostgreSQL, ``"database"`` or ``"key store"``.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The {what} is on PostgreSQL, which makes its own backups. Nothing was written. Run "
            "pg_dump --format=custom --schema=langmem_isolated --file=FILE --dbname=DATABASE as a "
            "role that may read all (pg_read_all_data), and with BYPASSRLS where row-level "
            "security is on: others see no row. Its password belongs in PGPASSFILE, not on the "
            "command line."
        )


class ExportExists(LangmemIsolatedError, FileExistsError):
    """Something has the name that an export was to have; it was left alone."""

    def __init__(self) -> None:
        super().__init__(
            "Something stands at the place that the export was to have. It was left alone, and "
            "nothing was written. Give output another name, or move what is there."
        )


class WrappedStoreMissing(LangmemIsolatedError):
    """Documents that are to be erased are in third-party stores that this process does not have.

    Args:
        names: Theirs, as ``vector_store(wrapping=…)`` gave or took them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(sorted(names))
        super().__init__(
            "Documents that are to be erased are in third-party vector stores that this process "
            f"does not have: {', '.join(self.names)}. Nothing was removed by this call. Make each "
            "store as the application does, and make it known: memory.erasure.include(store), with "
            "name=… if it was wrapped under one. One that is no more, or was cleared by hand, is "
            "left out by name: without_stores=[…], on the command line --without-store."
        )


class WrappedStoreKeeps(LangmemIsolatedError):
    """A third-party vector store still has documents that it was told to remove.

    Args:
        name: The store's.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The vector store {name} still has documents that it was told to remove. What else "
            "was removed is removed. See whether it may be written to, and call again."
        )
        self.name = name


class ImportRefused(LangmemIsolatedError, ValueError):
    """An archive is no export, or not as it was exported, or holds what is not allowed.

    Args:
        why: What is wrong; no content.
        file: In which of its files, where in one.
        line: In which line of that, from 1.
    """

    def __init__(self, why: str, file: str | None = None, line: int | None = None) -> None:
        where = f"{file}, line {line:,}: " if line else f"{file}: " if file else ""
        super().__init__(
            f"The archive was not imported: {where}{why}. Export the user again, or compare the "
            "archive with the one that was exported."
        )
        self.why, self.file, self.line = why, file, line


class ImportConflict(LangmemIsolatedError):
    """The target has something under a name that the archive has, too; it stays as it is.

    Args:
        what: What is there, such as ``"session"``.
        file: Which file of the archive has the same name.
        line: In which line of that, from 1.
        is_begun: Whether a part of the archive is in already.
    """

    def __init__(self, what: str, file: str, line: int, *, is_begun: bool = False) -> None:
        so_far = (
            "What was imported before stays; the same call goes on behind it once the other has "
            "gone."
            if is_begun
            else "Nothing was imported. An archive that was imported before is refused so. Else "
            "remove the other, or import under another user_id, on the command line --user."
        )
        super().__init__(
            f"The {what} of {file}, line {line:,}, has a name that the user has already. {so_far}"
        )
        self.what, self.file, self.line = what, file, line


class ErasureLogRefused(LangmemIsolatedError):
    """The erasure log cannot be read or written, or a line of it is not this installation's.

    Args:
        why: What is the matter; nothing that the log has in it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The erasure log is refused, and nothing was erased or restored. {why} Give a file "
            "that this user may write, in a folder that is there: erasure_log=…, on the command "
            "line --erasure-log."
        )

    @classmethod
    def line(cls, number: int) -> Self:
        """For a line that no tombstone of this installation is, counted from 1."""
        return cls(
            f"Line {number} is not one that this installation wrote: it was changed, or the log is "
            "another one's. Put it back from a copy of the log, or give the right log."
        )


class RestoreRefused(DatabaseError):
    """A backup cannot be restored, or not so; what stands at the place stays as it is."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Nothing was restored. {why}")


class MoveRefused(DatabaseError):
    """An installation, or its keys, cannot move there, or not now; the source is as it was."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Nothing became an installation there. {why}")


class MoveNotVerified(LangmemIsolatedError):
    """What was read back at the target of a move is not what was put there; the source stays.

    Args:
        place: Of what, such as ``"thread 3"``; no id.
        what: What differs, such as ``"values"``; no content.
    """

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"What was put for {place} came back otherwise: {what}. The target changes what it "
            "stores, or somebody else writes there. What is here was not changed; what was put "
            "there before stays there."
        )
        self.place, self.what = place, what


class UserWasErased(LangmemIsolatedError):
    """The user was erased here, and nobody said by name that they may come back."""

    def __init__(self) -> None:
        super().__init__(
            "The user was erased here. Nothing was imported. Who is to come back is named: "
            "readmit=[user_id], on the command line --readmit; they come in as new."
        )
