"""Receipt of an import: what it did, where its backup is, and the token that it is undone by."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self, get_args

from langmem_isolated.errors import ReceiptRefused

Status = Literal["running", "interrupted", "done", "rolled back"]
"""``"running"`` is also what a process that was killed leaves: the same import goes on."""

BackupState = Literal["not yet", "made", "nothing there", "not wanted"]
"""Whether there is a copy of the target from before anything was written; ``"nothing there"``:
there was nothing to be lost."""

_FORMAT = "langmem-isolated import receipt"
_VERSION = 1
_TOKEN_BYTES = 16
# One that is written here has a line for each module; what is larger is something else.
_MOST_BYTES = 16 * 2**20


def _versions() -> dict[str, str]:
    return {"langmem-isolated": version("langmem-isolated"), "python": platform.python_version()}


@dataclass(frozen=True, slots=True)
class ModuleCount:
    """What of one kind an import brings to one module, of all users."""

    project: str
    module: str
    kind: str
    """``"session"``, ``"thread"``, ``"item"``, ``"document"`` or ``"profile"``."""
    users: int = 0
    units: int = 0
    records: int = 0
    """Messages, checkpoints, items, documents or entries of profiles."""


@dataclass(frozen=True, slots=True)
class ImportReceipt:
    """What an import did; no user's id and no content is in it."""

    token: str
    """In hexadecimal; ``memory.roll_back(bytes.fromhex(token))`` takes out what was put in."""
    source: str
    """What the kind of the source is called."""
    source_digest: str
    """SHA-256 of the kind and place of the source, in hexadecimal."""
    mapping_digest: str
    rejects_place: str
    """Where rejects go, if there are any."""
    status: Status = "running"
    error: str | None = None
    """What ended it, where it was interrupted: the error's name."""
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    """How many sessions, threads, items, documents and profiles were copied, present, continued,
    rejected and unmapped."""
    modules: tuple[ModuleCount, ...] = ()
    rejects: Mapping[str, int] = field(default_factory=dict)
    """How many lines the file of rejects has, by what became of them."""
    rejects_file: str | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    """What the source told of what it left out or made into text: how often, by what it is."""
    backup: str | None = None
    """Where that of the target is."""
    backup_state: BackupState = "not yet"
    versions: Mapping[str, str] = field(default_factory=_versions)

    @property
    def records(self) -> int:
        """How many messages, checkpoints, items, documents and entries of profiles are in."""
        return sum(one.records for one in self.modules)

    @property
    def is_whole(self) -> bool:
        """Whether all of the source is in, but for what ``unmapped="skip"`` leaves out."""
        return self.status == "done" and not sum(self.rejects.values())

    def ended(self, status: Status, **changes: Any) -> Self:
        """This receipt at the end."""
        return replace(self, status=status, ended_at=datetime.now(UTC), **changes)

    def as_dict(self) -> dict[str, Any]:
        """JSON of it: times in UTC as ISO 8601."""
        told = asdict(self)
        for name in ("began_at", "ended_at"):
            if told[name] is not None:
                told[name] = told[name].isoformat()
        return {"format": _FORMAT, "version": _VERSION, **told}

    def write(self, path: Path) -> None:
        """Write it, in the place of what stands there, for its owner alone (mode 0600).

        Raises:
            OSError: The folder cannot be written to.
        """
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        text = json.dumps(self.as_dict(), indent=2).replace("\x7f", "\\u007f")
        try:
            with open_private(draft, "x") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The receipt in a file.

        Raises:
            ReceiptRefused: It cannot be read, or is none.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as error:
            raise ReceiptRefused(f"it cannot be read, {error.strerror}") from None
        try:
            return cls._of(json.loads(content))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ReceiptRefused("it is not what an import writes") from None

    @classmethod
    def _of(cls, told: Any) -> Self:
        if type(told) is not dict or (told.pop("format"), told.pop("version")) != (
            _FORMAT,
            _VERSION,
        ):
            raise ValueError
        made = cls(**told)
        if len(bytes.fromhex(made.token)) != _TOKEN_BYTES or made.status not in get_args(Status):
            raise ValueError
        modules = tuple(ModuleCount(**one) for one in told["modules"])
        if not all(type(n) is int for one in modules for n in (one.users, one.units, one.records)):
            raise ValueError
        ended = told["ended_at"]
        return replace(
            made,
            began_at=datetime.fromisoformat(told["began_at"]),
            ended_at=None if ended is None else datetime.fromisoformat(ended),
            modules=modules,
        )


def open_private(path: Path, mode: Literal["x", "w"]) -> Any:
    """A file of text that its owner alone may read and write, from its first byte on."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    file = open(path, mode, encoding="ascii", opener=opener)  # noqa: SIM115 - its opener
    if os.name == "posix":
        # One that was there may have had another mode.
        os.fchmod(file.fileno(), 0o600)
    return file
