"""Errors about locks, the audit log and evidence."""

from langmem_isolated.errors.core import LangmemIsolatedError, RecordError


class MemoryLocked(LangmemIsolatedError):
    """The user alone has the keys of this memory, and has not unlocked it in this process.

    Nothing is damaged or lost. Messages of a chat history are taken in all the same: they wait,
    sealed, until the user unlocks.
    """

    def __init__(self, what: str = "Nothing was read or written.") -> None:
        super().__init__(
            f"This user's memory is locked: its keys are the user's. {what} With the user's "
            "passphrase, secret or recovery code, memory.unlock(user_id, …, seconds=…) opens it "
            "in this process."
        )


class LockRefused(LangmemIsolatedError, ValueError):
    """A lock is not opened, made, changed or removed; nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} Nothing was opened or changed.")


class WrongSecret(LockRefused):
    """What was given does not open the lock.

    Args:
        what: What was given: ``"passphrase"``, ``"secret"`` or ``"recovery code"``.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"This {what} does not open the user's lock.")
        self.what = what


class EvidenceKeyInvalid(LangmemIsolatedError):
    """What was given to sign evidence packs with, or to verify them by, is no such key."""


class EvidenceRefused(LangmemIsolatedError):
    """An evidence pack is not what was signed, or not with the key that was given.

    Args:
        reason: What does not fit; nothing of what the file says.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The evidence pack is refused: {reason}. Nothing that it says is to be believed. Get "
            "the file again from whoever made it, and the public key from where you had it before."
        )
        self.reason = reason


class AuditLogBroken(RecordError):
    """The audit log is not what was written: changed, cut off, reordered or set back.

    Args:
        shard: In which of its chains, from 0; ``None`` where it is not one alone.
        reason: What does not fit; nothing that the log has in it.
    """

    def __init__(self, shard: int | None, reason: str) -> None:
        where = "The audit log" if shard is None else f"Chain {shard} of the audit log"
        super().__init__(
            f"{where} is not what was written: {reason}. Somebody changed the database, or put "
            "back an older copy. What is in it proves nothing from there on; keep a copy as "
            "evidence, and compare it with the anchors that are kept elsewhere: anchor check."
        )
        self.shard, self.reason = shard, reason


class AnchorRefused(LangmemIsolatedError):
    """An anchor cannot be read or written, or is not this installation's.

    Args:
        why: What is the matter; nothing that it has in it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"The anchor is refused. {why} Nothing was changed.")


class ReasonRequired(LangmemIsolatedError):
    """Auditing is on, and nobody may read a user's memory here without a reason."""

    def __init__(self) -> None:
        super().__init__(
            "Auditing is on: what a user has is read with a reason and for a limited time, which "
            "the user can see. Nothing was read. Give --reason TEXT (and --minutes N, 15 by "
            "default), or first: audit break-glass --user ID --reason TEXT --minutes N. In Python: "
            "memory.audit.break_glass(user_id, reason=…, minutes=…) as an actor."
        )


class AuditIsOff(LangmemIsolatedError):
    """There is no audit log, or it was switched off."""

    def __init__(self) -> None:
        super().__init__(
            "Auditing is off: there is no audit log to read, anchor or write to. Switch it on: "
            "IsolatedMemory(…, audit=AuditOptions()), on the command line: audit on."
        )
