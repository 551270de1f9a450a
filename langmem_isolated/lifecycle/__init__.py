"""The life of memory: what its owners and operators do with it over time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langmem_isolated.lifecycle.ephemeral import EphemeralContext, EphemeralLife
from langmem_isolated.lifecycle.guests.of_memory import AnonymousSessions
from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.one_module import OneModule
from langmem_isolated.lifecycle.verification.verified import Verified, verified

if TYPE_CHECKING:
    from langmem_isolated._adapters.quota import Quota
    from langmem_isolated._crypto.lock_secrets import PassphraseCost
    from langmem_isolated._database.row_level_security import RowLevelSecurity
    from langmem_isolated.lifecycle.adoption.store import AdoptedDocuments, AdoptingStore
    from langmem_isolated.lifecycle.audit.anchors import Anchor, AnchorFile
    from langmem_isolated.lifecycle.audit.log import AuditLog
    from langmem_isolated.lifecycle.audit.time_stamps import TimeStamps
    from langmem_isolated.lifecycle.audit.values import (
        AnchorsChecked,
        AuditEntry,
        AuditStatus,
        AuditVerified,
        BreakGlass,
    )
    from langmem_isolated.lifecycle.backup import Backup
    from langmem_isolated.lifecycle.bulk_import.bulk import BulkImport
    from langmem_isolated.lifecycle.bulk_import.outcome import PutOutcome
    from langmem_isolated.lifecycle.bulk_import.records import (
        ForeignCheckpoint,
        ForeignDocument,
        ForeignFact,
        ForeignItem,
        ForeignMessage,
        ForeignProfile,
        ForeignSession,
        ForeignThread,
        ForeignUnit,
        ForeignWrite,
        Rejected,
    )
    from langmem_isolated.lifecycle.bulk_import.rolling_back import Left, RolledBack
    from langmem_isolated.lifecycle.collections import Collections, DocumentCollection
    from langmem_isolated.lifecycle.erasure.participants import ErasureSubject
    from langmem_isolated.lifecycle.erasure.reapplication import Reapplied
    from langmem_isolated.lifecycle.erasure.receipt import ErasureReceipt
    from langmem_isolated.lifecycle.erasure.registry import ErasureRegistry, UnfinishedErasure
    from langmem_isolated.lifecycle.evidence.checking import check_evidence
    from langmem_isolated.lifecycle.evidence.keys import EvidenceKey
    from langmem_isolated.lifecycle.evidence.pack import Evidence
    from langmem_isolated.lifecycle.export.export import Exported
    from langmem_isolated.lifecycle.guests.transferred import NewName, Transferred
    from langmem_isolated.lifecycle.imports.run import Imported
    from langmem_isolated.lifecycle.isolation import ModuleIsolation
    from langmem_isolated.lifecycle.locking.values import (
        Collected,
        Lent,
        LockedModule,
        LockedSession,
        LockState,
        NewLock,
    )
    from langmem_isolated.lifecycle.moving.run import KeysMoved, Moved
    from langmem_isolated.lifecycle.profiles.comparison import (
        ComparedRow,
        ModuleComparison,
        ModuleKnowledge,
        SessionSummary,
    )
    from langmem_isolated.lifecycle.profiles.overview import Overview
    from langmem_isolated.lifecycle.profiles.profile import Profile
    from langmem_isolated.lifecycle.profiles.reader import ProfileReader
    from langmem_isolated.lifecycle.profiles.values import (
        Fact,
        FactSource,
        Interest,
        ProfileCleared,
        ProfileContents,
    )
    from langmem_isolated.lifecycle.quotas import Quotas
    from langmem_isolated.lifecycle.restore import Restored, restore_backup, would_replace
    from langmem_isolated.lifecycle.retention.applied import RetentionApplied
    from langmem_isolated.lifecycle.retention.holds import Hold
    from langmem_isolated.lifecycle.retention.policies import Policy
    from langmem_isolated.lifecycle.retention.retention import Retention
    from langmem_isolated.lifecycle.retention.sweeping import Swept
    from langmem_isolated.lifecycle.root_key_rotation import RootKeyRotated
    from langmem_isolated.lifecycle.rotation.run import KeysRotated
    from langmem_isolated.lifecycle.rotation.status import (
        KeyStatus,
        KeyVersion,
        ScopeKeyUse,
        UserKeyStatus,
    )
    from langmem_isolated.lifecycle.sharing.grants import Grant, Grants
    from langmem_isolated.lifecycle.sharing.merge_values import (
        MergeConflicts,
        MergePlan,
        MergeReceipt,
        Named,
        Undone,
    )
    from langmem_isolated.lifecycle.sharing.shared_memory import SharedMemory
    from langmem_isolated.lifecycle.sharing.terms import SharedFields, SharedKind
    from langmem_isolated.lifecycle.statistics import (
        COUNTED,
        NOT_COUNTED,
        Day,
        ModuleStats,
        ScopeStats,
        Stats,
        Tokens,
        Totals,
        digest_of,
    )
    from langmem_isolated.lifecycle.users import UserName, UserStats
    from langmem_isolated.lifecycle.verification.confidence import Coverage
    from langmem_isolated.lifecycle.verification.report import (
        Check,
        Finding,
        VerificationReport,
    )

__all__ = [
    "COUNTED",
    "NOT_COUNTED",
    "AdoptedDocuments",
    "AdoptingStore",
    "Anchor",
    "AnchorFile",
    "AnchorsChecked",
    "AnonymousSessions",
    "AuditEntry",
    "AuditLog",
    "AuditStatus",
    "AuditVerified",
    "Backup",
    "BreakGlass",
    "BulkImport",
    "Check",
    "Collected",
    "Collections",
    "ComparedRow",
    "Coverage",
    "Day",
    "DocumentCollection",
    "EphemeralContext",
    "EphemeralLife",
    "ErasureReceipt",
    "ErasureRegistry",
    "ErasureSubject",
    "Evidence",
    "EvidenceKey",
    "Exported",
    "Fact",
    "FactSource",
    "Finding",
    "ForeignCheckpoint",
    "ForeignDocument",
    "ForeignFact",
    "ForeignItem",
    "ForeignMessage",
    "ForeignProfile",
    "ForeignSession",
    "ForeignThread",
    "ForeignUnit",
    "ForeignWrite",
    "Grant",
    "Grants",
    "Hold",
    "Imported",
    "Interest",
    "KeyStatus",
    "KeyVersion",
    "KeysMoved",
    "KeysRotated",
    "Left",
    "Lent",
    "LockState",
    "LockedModule",
    "LockedSession",
    "MemoryLifecycle",
    "MergeConflicts",
    "MergePlan",
    "MergeReceipt",
    "ModuleComparison",
    "ModuleIsolation",
    "ModuleKnowledge",
    "ModuleStats",
    "Moved",
    "Named",
    "NewLock",
    "NewName",
    "OneModule",
    "Overview",
    "PassphraseCost",
    "Policy",
    "Profile",
    "ProfileCleared",
    "ProfileContents",
    "ProfileReader",
    "PutOutcome",
    "Quota",
    "Quotas",
    "Reapplied",
    "Rejected",
    "Restored",
    "Retention",
    "RetentionApplied",
    "RolledBack",
    "RootKeyRotated",
    "RowLevelSecurity",
    "ScopeKeyUse",
    "ScopeLifecycle",
    "ScopeStats",
    "SessionSummary",
    "SharedFields",
    "SharedKind",
    "SharedMemory",
    "Stats",
    "Swept",
    "TimeStamps",
    "Tokens",
    "Totals",
    "Transferred",
    "Undone",
    "UnfinishedErasure",
    "UserKeyStatus",
    "UserName",
    "UserStats",
    "VerificationReport",
    "Verified",
    "check_evidence",
    "digest_of",
    "restore_backup",
    "verified",
    "would_replace",
]

# What operators ask for is loaded when they do.
_NAMES = {
    "_adapters.quota": ("Quota",),
    "_database.row_level_security": ("RowLevelSecurity",),
    "lifecycle.adoption.store": ("AdoptedDocuments", "AdoptingStore"),
    "lifecycle.bulk_import.bulk": ("BulkImport",),
    "lifecycle.bulk_import.outcome": ("PutOutcome",),
    "lifecycle.bulk_import.rolling_back": ("Left", "RolledBack"),
    "lifecycle.bulk_import.records": (
        "ForeignCheckpoint",
        "ForeignDocument",
        "ForeignFact",
        "ForeignItem",
        "ForeignMessage",
        "ForeignProfile",
        "ForeignSession",
        "ForeignThread",
        "ForeignUnit",
        "ForeignWrite",
        "Rejected",
    ),
    "lifecycle.collections": ("Collections", "DocumentCollection"),
    "lifecycle.erasure.participants": ("ErasureSubject",),
    "lifecycle.erasure.reapplication": ("Reapplied",),
    "lifecycle.erasure.receipt": ("ErasureReceipt",),
    "lifecycle.erasure.registry": ("ErasureRegistry", "UnfinishedErasure"),
    "lifecycle.audit.anchors": ("Anchor", "AnchorFile"),
    "lifecycle.audit.log": ("AuditLog",),
    "lifecycle.audit.time_stamps": ("TimeStamps",),
    "lifecycle.audit.values": (
        "AnchorsChecked",
        "AuditEntry",
        "AuditStatus",
        "AuditVerified",
        "BreakGlass",
    ),
    "lifecycle.backup": ("Backup",),
    "lifecycle.evidence.checking": ("check_evidence",),
    "lifecycle.evidence.keys": ("EvidenceKey",),
    "lifecycle.evidence.pack": ("Evidence",),
    "lifecycle.export.export": ("Exported",),
    "lifecycle.guests.transferred": ("NewName", "Transferred"),
    "lifecycle.imports.run": ("Imported",),
    "_crypto.lock_secrets": ("PassphraseCost",),
    "lifecycle.isolation": ("ModuleIsolation",),
    "lifecycle.locking.values": (
        "Collected",
        "Lent",
        "LockState",
        "LockedModule",
        "LockedSession",
        "NewLock",
    ),
    "lifecycle.moving.run": ("KeysMoved", "Moved"),
    "lifecycle.profiles.comparison": (
        "ComparedRow",
        "ModuleComparison",
        "ModuleKnowledge",
        "SessionSummary",
    ),
    "lifecycle.profiles.overview": ("Overview",),
    "lifecycle.profiles.profile": ("Profile",),
    "lifecycle.profiles.reader": ("ProfileReader",),
    "lifecycle.profiles.values": (
        "Fact",
        "FactSource",
        "Interest",
        "ProfileCleared",
        "ProfileContents",
    ),
    "lifecycle.quotas": ("Quotas",),
    "lifecycle.restore": ("Restored", "restore_backup", "would_replace"),
    "lifecycle.retention.applied": ("RetentionApplied",),
    "lifecycle.retention.holds": ("Hold",),
    "lifecycle.retention.policies": ("Policy",),
    "lifecycle.retention.retention": ("Retention",),
    "lifecycle.retention.sweeping": ("Swept",),
    "lifecycle.root_key_rotation": ("RootKeyRotated",),
    "lifecycle.rotation.run": ("KeysRotated",),
    "lifecycle.rotation.status": ("KeyStatus", "KeyVersion", "ScopeKeyUse", "UserKeyStatus"),
    "lifecycle.sharing.grants": ("Grant", "Grants"),
    "lifecycle.sharing.merge_values": (
        "MergeConflicts",
        "MergePlan",
        "MergeReceipt",
        "Named",
        "Undone",
    ),
    "lifecycle.sharing.shared_memory": ("SharedMemory",),
    "lifecycle.sharing.terms": ("SharedFields", "SharedKind"),
    "lifecycle.statistics": (
        "COUNTED",
        "Day",
        "ModuleStats",
        "NOT_COUNTED",
        "ScopeStats",
        "Stats",
        "Tokens",
        "Totals",
        "digest_of",
    ),
    "lifecycle.users": ("UserName", "UserStats"),
    "lifecycle.verification.confidence": ("Coverage",),
    "lifecycle.verification.report": ("Check", "Finding", "VerificationReport"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"langmem_isolated.{_HOMES[name]}"), name)
