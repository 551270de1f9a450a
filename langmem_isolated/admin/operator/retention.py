"""Retention: policies, legal holds, and the sweep with its dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from langmem_isolated.admin.operator.pages import (
    Action,
    Asked,
    Here,
    Page,
    as_input,
    number_of,
    plain,
    required,
    text_of,
)
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.admin.web.templates import moment
from langmem_isolated.lifecycle import Hold, Policy

KINDS = ("message", "session", "thread", "checkpoint", "item", "document", "entry", "receipt")


@dataclass(frozen=True, slots=True)
class PolicyShown:
    """How long memory of a kind is kept, and where."""

    reference: str
    kind: str
    project_id: str
    module_id: str | None
    channel: str | None
    user: str | None
    """The digest of the user it is about alone; empty for one without memory."""
    age: timedelta | None
    idle: timedelta | None
    keep_latest: int | None


@dataclass(frozen=True, slots=True)
class HoldListed:
    """A legal hold."""

    reference: str
    user: str | None
    """The user's digest; ``None`` for one without memory."""
    project_id: str
    reason: str
    by: str
    since: datetime
    until: datetime | None
    stands: bool


@dataclass(frozen=True, slots=True)
class Retained:
    """All policies and holds."""

    policies: list[PolicyShown]
    holds: list[HoldListed]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of what a policy may be."""
        return KINDS


def _retained(here: Here, visit: Visit[str]) -> Retained:
    retention = here.memory.retention
    return Retained(
        [_policy(here, visit, one) for one in retention.list()],
        [_hold(here, visit, one) for one in retention.holds()],
    )


def _policy(here: Here, visit: Visit[str], policy: Policy) -> PolicyShown:
    user = policy.user_id
    digest = user and (here.memory.user_digest(user, project_id=policy.project_id) or "")
    return PolicyShown(
        _policy_reference(visit, policy), policy.kind, policy.project_id, policy.module_id,
        policy.channel, digest, policy.age, policy.idle, policy.keep_latest,
    )  # fmt: skip


def _policy_reference(visit: Visit[str], policy: Policy) -> str:
    return visit.signer.reference("policy", *_policy_names(policy))


def _policy_names(policy: Policy) -> tuple[str, ...]:
    told = (policy.project_id, policy.module_id, policy.channel, policy.user_id)
    limits = (policy.age, policy.idle, policy.keep_latest)
    # An id is never empty. With its limits: a page from before ends no policy that came since.
    return policy.kind, *(one or "" for one in told), *map(str, limits)


def _hold(here: Here, visit: Visit[str], hold: Hold) -> HoldListed:
    digest = here.memory.user_digest(hold.user_id, project_id=hold.project_id)
    return HoldListed(
        hold_reference(visit, hold), digest, hold.project_id, hold.reason, hold.by,
        hold.since, hold.until, hold.stands,
    )  # fmt: skip


def hold_reference(visit: Visit[str], hold: Hold) -> str:
    """What stands for a hold, and for none that is placed on the same user later."""
    return visit.signer.reference(*_hold_names(hold))


def _hold_names(hold: Hold) -> tuple[str, ...]:
    return "hold", hold.project_id, hold.user_id, hold.since.isoformat(), hold.reason, hold.by


def _place(visit: Visit[str]) -> dict[str, Any]:
    return {
        "module_id": text_of(visit, "module_id"),
        "channel": text_of(visit, "channel"),
        "project_id": text_of(visit, "project_id") or "default",
    }


def _limits(visit: Visit[str]) -> dict[str, Any]:
    idle = number_of(visit, "idle_days")
    return {
        "days": number_of(visit, "days"),
        "idle": None if idle is None else timedelta(days=min(idle, 365_000)),
        "keep_latest": number_of(visit, "keep_latest"),
    }


def _asks_to_keep(_here: Here, visit: Visit[str]) -> Asked:
    kind, limits = required(visit, "kind"), _limits(visit)
    if kind not in KINDS:
        raise HTTPException(400, f"kind must be one of {', '.join(KINDS)}. Nothing was changed.")
    if not any(limits.values()):
        raise HTTPException(400, "Give days, idle days, or how many stay. Nothing was changed.")
    told = [f"{name.replace('_', ' ')}: {value}" for name, value in limits.items() if value]
    places = [
        f"{name.partition('_')[0]}: {value}" for name, value in _place(visit).items() if value
    ]
    return Asked(
        f"Keep memory of kind {kind} for so long?",
        [
            *told, *places,
            "It counts for what was stored before, too; the next sweep removes what is older.",
            "It takes the place of a policy for the same place.",
        ],
        "Keep it so long",
    )  # fmt: skip


def _keep(here: Here, visit: Visit[str]) -> Response:
    with as_input():
        here.memory.retention.keep(required(visit, "kind"), **_place(visit), **_limits(visit))
    return visit.back("retention")


def _chosen(here: Here, visit: Visit[str]) -> Policy:
    wanted = required(visit, "policy")
    found = visit.signer.named_by(
        wanted, here.memory.retention.list(), lambda one: ("policy", *_policy_names(one))
    )
    if found is None:
        raise HTTPException(404, "There is no such policy now. Nothing was changed.")
    return found


def _asks_to_remove(here: Here, visit: Visit[str]) -> Asked:
    policy = _chosen(here, visit)
    limits = {"age": policy.age, "idle": policy.idle, "newest kept": policy.keep_latest}
    return Asked(
        f"End the policy of kind {policy.kind}?",
        [
            *(f"{name}: {value}" for name, value in limits.items() if value),
            "What it is about falls under the next wider policy, or is kept for ever.",
        ],
        "End it",
    )


def _remove(here: Here, visit: Visit[str]) -> Response:
    one = _chosen(here, visit)
    here.memory.retention.remove(
        one.kind, module_id=one.module_id, channel=one.channel, user_id=one.user_id,
        project_id=one.project_id,
    )  # fmt: skip
    return visit.back("retention")


def _chosen_hold(here: Here, visit: Visit[str]) -> Hold:
    wanted = required(visit, "hold")
    found = visit.signer.named_by(wanted, here.memory.retention.holds(), _hold_names)
    if found is None:
        raise HTTPException(404, "There is no such hold now. Nothing was changed.")
    return found


def _asks_to_release(here: Here, visit: Visit[str]) -> Asked:
    hold = _chosen_hold(here, visit)
    return Asked(
        "Release the legal hold?",
        [
            f"Placed: {moment(hold.since)} UTC",
            f"By: {hold.by}",
            f"Why: {hold.reason}",
            "What is due goes with the next sweep.",
        ],
        "Release it",
    )


def _release(here: Here, visit: Visit[str]) -> Response:
    hold = _chosen_hold(here, visit)
    here.memory.retention.release(hold.user_id, project_id=hold.project_id)
    return visit.back("retention")


def _is_dry(visit: Visit[str]) -> bool:
    return visit.form.get("dry_run") == "yes"


def _asks_to_sweep(_here: Here, visit: Visit[str]) -> Asked:
    if _is_dry(visit):
        return Asked("Count what is due?", ["Nothing is removed."], "Count")
    return Asked(
        "Remove what is due?",
        [
            "What has expired, and what policies keep no longer, goes for ever, of all users.",
            "What is on legal hold stays.",
            "A dry run says first how much it is.",
        ],
        "Remove it",
    )


def _sweep(here: Here, visit: Visit[str]) -> Response:
    dry, memory = _is_dry(visit), here.memory
    return here.begin(
        visit,
        "dry run of a sweep" if dry else "sweep",
        lambda progress: plain(memory.sweep(dry_run=dry, progress=progress)),
    )


PAGES: Sequence[Page | Action] = (
    Page("/retention", "retention", "Retention and holds", _retained, Retained),
    Action("/retention/keep", "keep", _keep, _asks_to_keep),
    Action("/retention/remove", "remove_policy", _remove, _asks_to_remove),
    Action("/retention/release", "release_hold", _release, _asks_to_release),
    Action("/retention/sweep", "sweep", _sweep, _asks_to_sweep),
)
