"""Entries of an import: of profiles, caches, grants, policies and receipts, each checked so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from langmem_isolated._adapters.quota import SPACE as QUOTAS
from langmem_isolated._adapters.quota import Quota
from langmem_isolated._codecs.foreign import ForeignForms
from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._codecs.values import encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.sealing import unframed
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._storage.copying import import_marks
from langmem_isolated._storage.copying.imported import ArrivedEntry
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.grants import StoredGrant
from langmem_isolated._storage.profiles import UNCONFIRMED, Part
from langmem_isolated.errors import ScopeError
from langmem_isolated.lifecycle.imports.fields import Fields, from_base64
from langmem_isolated.lifecycle.profiles import forms as profile_forms
from langmem_isolated.lifecycle.retention import policies
from langmem_isolated.lifecycle.sharing.terms import Terms
from langmem_isolated.scope import checked_id

_FIRST_VERSION = b"\x01"
_DIGEST_BYTES = 32
_TOKEN_BYTES = 16
# What a node cache calls values that it stored in our own form.
_OUR_SERIALIZER = b"value"
_RECEIPT_PARTS = 7

Names = tuple[bytes, ...]
Check = Callable[[Names, Entry], Entry | None]


class Entries:
    """Makes entries of lines.

    Args:
        forms: Checks what was sealed.
        limits: How large each may be.
        user: Whose archive it is, as it says.
        target: Who gets it.
        modules: Those that are in the archive.
    """

    def __init__(
        self,
        forms: ForeignForms,
        limits: Limits,
        user: Owner,
        target: Owner,
        modules: frozenset[str],
    ) -> None:
        self._forms, self._limits = forms, limits
        self._user, self._target, self._modules = user, target, modules
        self._checks: dict[Kind, Check] = {
            Kind.PROFILE: self._profile,
            Kind.ENTRY: self._cached,
            Kind.GRANT: self._grant,
            Kind.POLICY: self._policy,
            Kind.RECEIPT: self._receipt,
        }

    def arrived(self, kind: Kind, fields: Fields) -> ArrivedEntry | None:
        """The entry of a line; ``None`` for one that is left out.

        Raises:
            NotStorable: It is none.
        """
        stored = fields.dict("stored")
        if stored.keys() != {"names", "key", "tag", "value"} or type(stored["names"]) is not list:
            raise NotStorable("stored must have names, key, tag and value")
        names = tuple(from_base64("names", one) for one in stored["names"])
        tag = None if stored["tag"] is None else from_base64("tag", stored["tag"])
        key, value = (from_base64(name, stored[name]) for name in ("key", "value"))
        updated, created = fields.time("updated_at"), fields.time("created_at")
        expires_at = fields.time_or_none("expires_at")
        try:
            entry = self._checks[kind](names, Entry(key, value, tag or None))
        except NotStorable:
            raise
        except (ScopeError, ValueError, TypeError, KeyError, IndexError, OverflowError):
            # What reads these forms trusts them, and fails by any of these.
            raise NotStorable("stored is not of the form of its kind") from None
        if entry is None:
            return None
        return ArrivedEntry(kind, names, entry._replace(created_at=created), updated, expires_at)

    def _profile(self, names: Names, entry: Entry) -> Entry:
        self._limits.check("profile_bytes", len(entry.value))
        self._forms.value(entry.value[1:])
        (part,) = names[1:] if names[:1] == UNCONFIRMED else names
        again = _PROFILE[Part(part)](entry)
        if again != entry:
            raise NotStorable("stored is not what a profile keeps")
        return entry

    def _cached(self, names: Names, entry: Entry) -> Entry | None:
        self._limits.check("value_bytes", len(entry.value))
        space, *name = names
        if space in _NAMED:
            (named,) = name
            checked_id("name", named.decode())
        elif name or space not in (b"llm cache", b"node cache"):
            return None
        if space in _NAMED:
            return self._keyed(space, entry)
        try:
            return self._answer(entry) if space == b"llm cache" else self._of_node(entry)
        except NotStorable:
            # What a cache has not is made again.
            return None

    def _answer(self, entry: Entry) -> Entry:
        if len(entry.key) != _DIGEST_BYTES or entry.value[:1] != _FIRST_VERSION:
            raise NotStorable("stored is not what a cache of answers keeps")
        self._forms.value(entry.value[1:])
        return entry

    def _of_node(self, entry: Entry) -> Entry | None:
        version, length = entry.value[:1], entry.value[1]
        name, packed = entry.value[2 : 2 + length], entry.value[2 + length :]
        if version != _FIRST_VERSION or name != _OUR_SERIALIZER:
            # An application's own serializer may run anything when it loads what is not its own.
            return None
        self._forms.value(packed)
        return entry

    def _keyed(self, space: bytes, entry: Entry) -> Entry:
        if space == b"byte store" and entry.tag is not None:
            raise NotStorable("a byte store has no sources")
        self._check_text(entry.key, str)
        if entry.tag is not None:
            self._check_text(entry.tag, str, type(None))
        if space == b"indexed documents" and entry.value:
            raise NotStorable("an index keeps no values")
        return entry

    def _check_text(self, packed: bytes, *kinds: type) -> None:
        text = self._forms.value(packed)
        # In other bytes of the same text it would stand beside what has that key.
        if type(text) not in kinds or encode_value(text, "a key") != packed:
            raise NotStorable("a key or source must be text, as it is kept")

    def _grant(self, names: Names, entry: Entry) -> Entry | None:
        if names not in ((b"granted",), (b"received",)):
            raise NotStorable("a grant is granted or received")
        if not entry.key:
            return self._ledger(names, entry)
        module = checked_id("module_id", entry.key.decode())
        terms = StoredGrant.of(entry.value).terms
        self._forms.value(terms)
        told = Terms.decoded(terms)
        if Terms.checked(told.kinds, told.fields).encoded() != terms:  # type: ignore[arg-type]
            raise NotStorable("terms are not those of a grant")
        return entry if module in self._modules else None

    def _ledger(self, names: Names, entry: Entry) -> Entry | None:
        parts = unframed(entry.value)
        if names != (b"granted",) or len(parts) % 2:
            raise NotStorable("a ledger has modules and ids")
        modules = [checked_id("module_id", one.decode()) for one in parts[::2]]
        return entry if self._modules.issuperset(modules) else None

    def _policy(self, names: Names, entry: Entry) -> Entry:
        if names == QUOTAS:
            return _quota(entry)
        if names != policies.SPACE:
            raise NotStorable("a policy is of retention or a quota")
        told = policies.Policy.decoded(entry.value)
        if (told.project_id, told.user_id) != (self._user.project, self._user.user):
            raise NotStorable("a policy is another user's")
        where = {"project_id": self._target.project, "user_id": self._target.user}
        policy = policies.checked(
            told.kind, module_id=told.module_id, channel=told.channel, days=None, age=told.age,
            idle=told.idle, keep_latest=told.keep_latest, **where,
        )  # fmt: skip
        if entry.key != policy.key or entry.value != replace(policy, **_place(told)).encoded():
            raise NotStorable("a policy has other fields than policies have")
        return entry._replace(value=policy.encoded())

    def _receipt(self, names: Names, entry: Entry) -> Entry | None:
        parts = self._forms.value(entry.value)
        if names == import_marks.SPACE:
            # Of what was moved in elsewhere: nobody takes it out here.
            return None
        if type(parts) is not list or parts[:1] != [1]:
            raise NotStorable("a receipt has a form that this version does not know")
        if names == (b"receipts",):
            return _whole_receipt(entry, parts)
        space, token = names
        if space != b"journal" or len(token) != _TOKEN_BYTES:
            raise NotStorable("a receipt has another space")
        _check_journal(*parts[1:])
        return entry


_NAMED = (b"byte store", b"indexed documents")


def _place(told: policies.Policy) -> dict[str, Any]:
    return {"project_id": told.project_id, "user_id": told.user_id}


def _fact(entry: Entry) -> Entry:
    fact = profile_forms.fact_of(entry.key, entry.value)
    profile_forms.checked_text("fact", fact.text)
    counts = fact.revision, fact.position
    texts = [
        text
        for one in fact.sources
        for text in (one.kind, one.module_id, one.session_id, one.message_id)
    ]
    if not all(type(one) in (int, type(None)) for one in counts):
        raise NotStorable("a fact is not of its types")
    if not all(type(one) in (str, type(None)) for one in texts):
        raise NotStorable("a fact's source is not of its types")
    return profile_forms.fact_entry(fact)


def _interest(entry: Entry) -> Entry:
    interest = profile_forms.interest_of(entry.value)
    profile_forms.checked_text("interest", interest.name)
    if type(interest.mentions) is not int:
        raise NotStorable("an interest is not of its types")
    return profile_forms.interest_entry(interest)


def _attribute(entry: Entry) -> Entry:
    value = profile_forms.checked_json(profile_forms.value_of(entry.value))
    checked_id("name", entry.key.decode())
    return profile_forms.value_entry(entry.key, value)


def _summary(entry: Entry) -> Entry:
    text = profile_forms.checked_text("summary", profile_forms.value_of(entry.value))
    return profile_forms.value_entry(profile_forms.SUMMARY_KEY, text)


_PROFILE: dict[Part, Callable[[Entry], Entry]] = {
    Part.FACTS: _fact,
    Part.INTERESTS: _interest,
    Part.ATTRIBUTES: _attribute,
    Part.SUMMARY: _summary,
}


def _quota(entry: Entry) -> Entry:
    measure, per, module = json.loads(entry.key)
    limit = json.loads(entry.value)
    if measure not in ("tokens", "messages") or per not in ("day", "month"):
        raise NotStorable("a quota is of tokens or messages, a day or a month")
    if module is not None:
        checked_id("module_id", module)
    if type(limit) is not int or limit < 0:
        raise NotStorable("a quota is a whole number")
    if Quota(measure, limit, per, "", module).entry() != entry:
        # Under another spelling of its key it would stand beside the one that is set here.
        raise NotStorable("a quota is not as quotas are kept")
    return entry


def _whole_receipt(entry: Entry, parts: list[Any]) -> Entry | None:
    if len(parts) != _RECEIPT_PARTS or len(entry.key) != _TOKEN_BYTES:
        raise NotStorable("a receipt has other parts than receipts have")
    _, what, module, conflicts, begun, finished, counts = parts
    checked_id("from_module", module)
    are_texts = type(what) is str and type(conflicts) is str
    are_times = type(begun) is int and type(finished) in (int, type(None))
    are_counts = type(counts) is dict and all(type(one) is int for one in counts.values())
    if not (are_texts and are_times and are_counts):
        raise NotStorable("a receipt is not of its types")
    # A merge that did not end would go on here, and find nothing of what it had put in there.
    return None if finished is None else entry


def _check_journal(lines: Any, renamed: Any) -> None:
    for kind, *names, proof in lines:
        Kind(kind)
        if not all(type(one) is bytes for one in names) or type(proof) not in (bytes, type(None)):
            raise NotStorable("a receipt is not of its types")
    for kind, *texts in renamed:
        Kind(kind)
        if len(texts) != 2 or not all(type(one) is str for one in texts):  # noqa: PLR2004
            raise NotStorable("a receipt is not of its types")
