"""Evidence pack: a report, where it was made and what it speaks to, signed, as one file.

The file is canonical JSON: ``format``, ``key``, ``pack`` and ``signature``, both in hex. What is
signed is ``langmem-isolated evidence pack v1``, a zero byte, and the pack in canonical form.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from langmem_isolated._crypto.signing import SignatureRefused, check_signature
from langmem_isolated.errors import EvidenceRefused
from langmem_isolated.lifecycle.evidence.canonical import canonical, parsed
from langmem_isolated.lifecycle.evidence.keys import EvidenceKey, public_key
from langmem_isolated.lifecycle.verification.checks import KIND_OF, PROMISES
from langmem_isolated.lifecycle.verification.report import VerificationReport

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext

FORMAT = "langmem-isolated evidence pack v1"
_DOMAIN = f"{FORMAT}\0".encode()
_FIELDS = {"format", "key", "pack", "signature"}
_PACKAGES = (
    "langmem-isolated", "cryptography", "langchain-core", "langgraph", "langgraph-checkpoint",
    "ormsgpack", "psycopg", "sqlalchemy",
)  # fmt: skip
STATEMENT = (
    "Signed by the party that was checked, this proves that whoever has the key said so, no later "
    "than a time stamp on it, if there is one. It does not prove that what they said is so."
)
NEVER_CHECKED = (
    ("promise 6", "that sync and async calls agree is of the code: its tests hold it"),
    ("promise 8", "that cost follows what is new is of the code: its tests hold it"),
    ("kill -9", "that acknowledged writes survive it is of the code: its tests hold it"),
    ("older states", "a whole older state that was put back is told by an anchor outside alone"),
    ("uncounted", "that an item or entry was removed or rolled back, unless items are counted"),
    ("the application", "whether it names the right user when it asks for a scope"),
)  # fmt: skip
"""What no verification of what is stored can tell."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """An evidence pack whose signature is that of the key it was checked with."""

    pack: Mapping[str, Any]
    """What was signed: see docs/operations/verification.md."""
    key: str
    """The public key, as text."""
    stamped_at: datetime | None = None
    """When an authority of time stamps has seen it, by its word."""

    @property
    def made_at(self) -> str:
        """When it says it was made, UTC, as ISO 8601."""
        return str(self.pack["made_at"])

    @property
    def is_clean(self) -> bool:
        """Whether it says that nothing was found."""
        return bool(self.pack["report"]["is_clean"])


def evidence_of(
    report: VerificationReport, environment: Mapping[str, str], state: str | None, made_at: datetime
) -> dict[str, Any]:
    """The pack of a report, not signed yet.

    Args:
        report: What was found.
        environment: Versions, by name.
        state: SHA-256 over what lists everybody's scopes and keys, in hex.
        made_at: When.
    """
    return {
        "format": FORMAT,
        "made_at": made_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "statement": STATEMENT,
        "environment": dict(environment),
        "state": state,
        "report": report.as_dict(),
        "speaks_to": {check.name: _speaks_to(check.name) for check in report.checks},
        "not_checked": [*_not_checked(report)],
    }


def _speaks_to(name: str) -> dict[str, Any]:
    kind = KIND_OF[name]
    promises = [{"number": number, "promise": PROMISES[number]} for number in kind.promises]
    return {"promises": promises, "owasp_llm_2025": [*kind.owasp], "gdpr": [*kind.gdpr]}


def _not_checked(report: VerificationReport) -> list[dict[str, str]]:
    told = [(check.name, check.not_checked) for check in report.checks if check.not_checked]
    if report.coverage is not None:
        told.append(("scopes that were not drawn", f"{report.scopes - report.verified} of them"))
    if report.locked:
        told.append(("contents of locked users", f"{report.locked} scopes: rows and counts only"))
    return [{"what": what, "why": why} for what, why in (*told, *NEVER_CHECKED)]


def signed(pack: Mapping[str, Any], key: EvidenceKey) -> bytes:
    """The file of a pack."""
    signature = key.sign(_DOMAIN + canonical(pack))
    return canonical(
        {"format": FORMAT, "key": key.public.hex(), "pack": pack, "signature": signature.hex()}
    )


def checked(content: bytes, key: str) -> Evidence:
    """A pack, if it was signed with ``key`` and is byte by byte what was signed.

    Args:
        content: The file.
        key: The public key, as text, which the reader had before.

    Raises:
        EvidenceKeyInvalid: ``key`` is no public key.
        EvidenceRefused: It is no evidence pack, was signed with another key, or was changed.
    """
    pinned = public_key(key)
    found = parsed(content)
    if not isinstance(found, dict) or found.keys() != _FIELDS or found["format"] != FORMAT:
        raise EvidenceRefused("it is no evidence pack of a form that this version knows")
    if found["key"] != pinned.hex():
        raise EvidenceRefused("it says that it was signed with another key than the one given")
    try:
        signature = bytes.fromhex(found["signature"])
        check_signature(pinned, signature, _DOMAIN + canonical(found["pack"]))
    except (SignatureRefused, TypeError, ValueError):
        raise EvidenceRefused("its signature is not that of the key given") from None
    # Other spellings of the same bytes would be another file.
    if signature.hex() != found["signature"]:
        raise EvidenceRefused("its signature is written in another way")
    return Evidence(found["pack"], key.strip())


def environment_of(context: MemoryContext) -> dict[str, str]:
    """Versions of what took part, by name."""
    found = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
        "database": _database_version(context),
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if sys.flags.optimize:
        found["python"] += " -O"
    return found


def _database_version(context: MemoryContext) -> str:
    is_postgres = context.database.is_postgres
    asked = "SHOW server_version" if is_postgres else "SELECT sqlite_version()"
    found = context.database.inspect(lambda it: it.exec_driver_sql(asked).scalar_one())
    return f"{'PostgreSQL' if is_postgres else 'SQLite'} {found}"
