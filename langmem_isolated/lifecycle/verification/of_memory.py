"""Verification, as operators call it."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback, kind_of, true_or_false, whole_number
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.evidence.keys import EvidenceKey
    from langmem_isolated.lifecycle.retention.sweeping import Progress
    from langmem_isolated.lifecycle.verification.report import VerificationReport

_READ_ONLY = "nothing was to be written: read_only=True"


@explains_calls
class Verifications:
    """Verification, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def verify(
        self,
        user_id: str | None = None,
        *,
        project_id: str = "default",
        sample: int | None = None,
        read_only: bool = False,
        progress: Progress | None = None,
    ) -> VerificationReport:
        """Verify what is stored, of everybody or of one user, and isolation through every adapter.

        Walks all scopes, one after another, and collects what is not right instead of ending at the
        first: every record opens under its own scope and address and under no other that is tried;
        rows, numbers, multiset hashes, references, key sets, tombstones are as they were stored;
        nothing belongs to a scope that is not there. Canaries are written through every adapter
        into scopes made for it, looked for in all of them, and removed, also those of a run that
        was killed. What each check speaks to is in ``docs/operations/verification.md``.

        Users may come, write, be erased and have keys rotated meanwhile: that makes no finding.
        Each scope is read in one state of the database, in which what is written is whole.

        >>> report = memory.verify(user_id="alice", read_only=True)
        >>> report.is_clean, report.check("records").state
        (True, 'ok')

        Args:
            user_id: Whose; by default everybody's, with all that belongs to the installation.
            project_id: In which project the user is; without ``user_id`` it is not asked.
            sample: Open the records of so many scopes alone, drawn at random, 1 or more. All rows
                of scopes and keys are checked even so; ``report.coverage`` says what that proves.
            read_only: Write nothing: no canaries, and none are removed. The report says so.
            progress: Called after each scope with the number done so far. What it raises ends the
                walk between two of them.

        Returns:
            What was looked at and found. It names nobody, and scopes by their digests, as logs do.

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``sample`` is no whole number, ``read_only`` neither true nor false, or
                ``progress`` no function.
            ValueError: ``sample`` is below 1.
            KeyringError: The installation's own key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The installation's own key or row was changed: nothing is checked.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.verification.canaries import Canaries, remove_abandoned
        from langmem_isolated.lifecycle.verification.run import VerificationRun

        user = _user(user_id, project_id)
        true_or_false("read_only", read_only)
        if sample is not None:
            whole_number("sample", sample, least=1, advice="Leave it out to open all.")
        if progress is not None:
            callback("progress", progress, example="progress=lambda done: print(done)")
        told = progress or (lambda _: None)
        run = VerificationRun(self._context, user=user, sample=sample, progress=told)
        noted = nullcontext() if read_only else self._context.audit.job("verify", user)
        with noted:
            run.walk()
            if read_only:
                run.tallies["canaries"].not_checked = _READ_ONLY
            else:
                remove_abandoned(self._context, (one.row for one in run.canaries))
                Canaries(self, self._context, run.tallies["canaries"]).fly()
            return run.report()

    async def averify(
        self,
        user_id: str | None = None,
        *,
        project_id: str = "default",
        sample: int | None = None,
        read_only: bool = False,
        progress: Progress | None = None,
    ) -> VerificationReport:
        """Verify what is stored; see :meth:`verify`."""
        return await self._context.database.arun(
            self.verify,
            user_id,
            project_id=project_id,
            sample=sample,
            read_only=read_only,
            progress=progress,
        )

    def evidence_pack(self, report: VerificationReport, *, key: EvidenceKey | None = None) -> bytes:
        """A report as a signed file, for those who were not there; needs the extra ``evidence``.

        Beside what was found it says of each check which promise, which entry of the OWASP Top 10
        for LLM Applications and which article of the GDPR it speaks to, the versions of what took
        part, and what was not checked. It names nobody. Signed with Ed25519 (RFC 8032) over
        canonical JSON (RFC 8785): changed in any byte it is refused by
        :func:`~langmem_isolated.lifecycle.check_evidence`.

        >>> from langmem_isolated.lifecycle import EvidenceKey, check_evidence
        >>> key = EvidenceKey.from_text(EvidenceKey.generate_text())
        >>> pack = memory.evidence_pack(memory.verify(read_only=True), key=key)
        >>> check_evidence(pack, key.public_text).is_clean
        True

        Args:
            report: What :meth:`verify` returned.
            key: Signs it; by default that of ``LANGMEM_ISOLATED_EVIDENCE_KEY`` or ``…_FILE``.

        Raises:
            TypeError: ``report`` is no `VerificationReport`, or ``key`` no `EvidenceKey`.
            EvidenceKeyInvalid: There is no key.
            ImportError: The extra ``evidence`` is not installed.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.evidence.keys import EvidenceKey
        from langmem_isolated.lifecycle.evidence.pack import environment_of, evidence_of, signed
        from langmem_isolated.lifecycle.verification.report import VerificationReport

        _expect("report", report, VerificationReport, "memory.verify()")
        signing = EvidenceKey.from_environment() if key is None else key
        _expect("key", signing, EvidenceKey, "EvidenceKey.from_file(path)")
        environment, state = environment_of(self._context), self._state()
        return signed(evidence_of(report, environment, state, datetime.now(UTC)), signing)

    async def aevidence_pack(
        self, report: VerificationReport, *, key: EvidenceKey | None = None
    ) -> bytes:
        """A report as a signed file; see :meth:`evidence_pack`."""
        return await self._context.database.arun(self.evidence_pack, report, key=key)

    def _state(self) -> str | None:
        """SHA-256 over what lists everybody; nothing is made for it."""
        keyring = self._context.keyring
        return None if keyring.directory() is None else keyring.lives().store_hash()


def _expect(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be of {kind.__name__}, got {kind_of(value)}. Give {example}. Nothing was "
            "signed."
        )


def _user(user_id: str | None, project_id: str) -> Owner | None:
    project = checked_id("project_id", project_id)
    return None if user_id is None else Owner(Level.USER, project, checked_id("user_id", user_id))
