"""Users: lists by digest, search by exact id, and one user as counts and times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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
)
from langmem_isolated.admin.operator.retention import hold_reference
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.lifecycle import (
    AuditEntry,
    BreakGlass,
    Hold,
    Overview,
    Totals,
    UserKeyStatus,
    UserName,
    UserStats,
)
from langmem_isolated.scoped_memory import ScopedMemory

PAGE = 50
_MOST_LISTED = 50
_ENTRIES = 20


@dataclass(frozen=True, slots=True)
class Users:
    """A page of users, in the order of their digests."""

    users: list[UserStats]
    project: str | None
    """The reference of the project they are of; ``None`` for all."""
    next: str | None
    """``after`` of the next page; ``None`` on the last."""


def _users(here: Here, visit: Visit[str]) -> Users:
    asked = visit.request.query_params
    reference, after = asked.get("project"), asked.get("after")
    project = None if reference is None else _project_named(here, visit, reference)
    with as_input():
        found = here.memory.users(project_id=project, limit=PAGE + 1, after=after)
    more = found[PAGE - 1].digest if len(found) > PAGE else None
    return Users(found[:PAGE], reference, more)


def _project_named(here: Here, visit: Visit[str], reference: str) -> str:
    projects = here.memory.stats(days=1).projects
    found = visit.signer.named_by(reference, projects, lambda one: ("project", one))
    if found is None:
        raise HTTPException(404, "There is no such project now. Go back to the list of projects.")
    return found


def _find(here: Here, visit: Visit[str]) -> Response:
    user, project = visit.form.get("user_id", ""), visit.form.get("project_id", "") or "default"
    digest = here.memory.user_digest(user, project_id=project)
    if digest is None:
        raise HTTPException(
            404,
            "Nobody has memory here under exactly this id in this project: another spelling is "
            "another user, and who was erased is not found.",
        )
    return visit.back("user", digest=digest)


@dataclass(frozen=True, slots=True)
class Container:
    """A chat session or thread, as counts and times."""

    kind: str
    records: int
    """Messages, or checkpoints."""
    size: int
    created: datetime
    last_activity: datetime
    expires: datetime | None
    damaged: bool


@dataclass(frozen=True, slots=True)
class ModuleShown:
    """What a user has in one module, as counts and times."""

    module_id: str
    digest: str | None
    totals: Totals
    overview: Overview | None
    containers: list[Container]
    """The newest 50 sessions and 50 threads."""
    error: str | None = None
    """Why it is not shown, as where the user holds the keys, or it was tampered with."""


@dataclass(frozen=True, slots=True)
class HoldShown:
    """A user's legal hold."""

    reference: str
    reason: str
    by: str
    since: datetime
    until: datetime | None

    @classmethod
    def of(cls, hold: Hold, reference: str) -> HoldShown:
        """Without whose it is."""
        return cls(reference, hold.reason, hold.by, hold.since, hold.until)


@dataclass(frozen=True, slots=True)
class UserShown:
    """One user: nothing that they, or anybody about them, wrote."""

    digest: str
    project_id: str
    modules: list[ModuleShown]
    is_locked: bool
    """Whether the user holds the keys, and this process can read nothing."""
    keys: UserKeyStatus
    hold: HoldShown | None
    is_audited: bool
    permission: BreakGlass | None
    """What permits you to read content, if anything does."""
    entries: list[AuditEntry] = field(default_factory=list)
    """The newest 20 of the audit log about the user."""


def user_of(here: Here, visit: Visit[str]) -> UserName:
    """Whom the digest in the path stands for.

    Raises:
        HTTPException: 404 where there is none, or none any more.
    """
    found = None
    with suppress(ValueError):
        found = here.memory.find_user(visit.request.path_params["digest"])
    if found is None:
        raise HTTPException(
            404, "Nobody has memory under this digest: whoever had was erased, or it is another."
        )
    return found


def digest_in_path(visit: Visit[str]) -> str:
    """The digest in the path, which stands for somebody."""
    return str(visit.request.path_params["digest"])


def _user(here: Here, visit: Visit[str]) -> UserShown:
    user, memory = user_of(here, visit), here.memory
    asked = {"project_id": user.project_id}
    is_audited = memory.audit.status().is_on
    return UserShown(
        digest=digest_in_path(visit),
        project_id=user.project_id,
        modules=[module_shown(scope) for scope in scopes_of(here, user)],
        is_locked=memory.lock_state(user.user_id, **asked).is_locked,
        keys=memory.key_status_of(user.user_id, **asked),
        hold=_hold_of(here, visit, user),
        is_audited=is_audited,
        permission=memory.audit.permission(user.user_id, **asked),
        entries=_entries_of(here, user) if is_audited else [],
    )


def _entries_of(here: Here, user: UserName) -> list[AuditEntry]:
    return here.memory.audit.entries(
        user_id=user.user_id, project_id=user.project_id, limit=_ENTRIES
    )


def scopes_of(here: Here, user: UserName) -> list[ScopedMemory]:
    """The user's modules."""
    return [
        here.memory.scope(user_id=user.user_id, module_id=module, project_id=user.project_id)
        for module in here.memory.modules(user.user_id, project_id=user.project_id)
    ]


def module_shown(scope: ScopedMemory) -> ModuleShown:
    """One module as counts and times."""
    named = scope.scope.module_id, scope.digest(), scope.stats(days=1).total
    try:
        return ModuleShown(*named, scope.overview(), _containers(scope))
    except LangmemIsolatedError as error:
        return ModuleShown(*named, None, [], str(error))


def _containers(scope: ScopedMemory) -> list[Container]:
    sessions = scope.sessions(limit=_MOST_LISTED, archived=None)
    threads = scope.checkpointer().threads(limit=_MOST_LISTED, archived=None)
    listed: list[tuple[str, Any, int]] = [
        *(("session", one, one.messages) for one in sessions),
        *(("thread", one, one.checkpoints) for one in threads),
    ]
    return [
        Container(kind, records, one.size, one.created, one.last_activity, one.expires, one.damaged)
        for kind, one, records in listed
    ]


def _hold_of(here: Here, visit: Visit[str], user: UserName) -> HoldShown | None:
    wanted = user.user_id, user.project_id
    found = (
        hold
        for hold in here.memory.retention.holds()
        if (hold.user_id, hold.project_id) == wanted and hold.stands
    )
    return next((HoldShown.of(hold, hold_reference(visit, hold)) for hold in found), None)


# --- what is done about one user


def _asks(title: str, button: str, *consequences: str) -> Callable[[Here, Visit[str]], Asked]:
    def asked(here: Here, visit: Visit[str]) -> Asked:
        user_of(here, visit)
        whose = f"The user of digest {digest_in_path(visit)}."
        return Asked(title, [whose, *consequences], button)

    return asked


def _asks_to_hold(here: Here, visit: Visit[str]) -> Asked:
    required(visit, "reason")
    ends = number_of(visit, "days")
    told = "It stands until it is released." if ends is None else f"It ends in {ends} days."
    return _asks(
        "Place a legal hold?",
        "Place the hold",
        "Nothing of the user's memory is swept, cleared or erased while it stands.",
        told,
        "You are named as who ordered it.",
    )(here, visit)


def _held(here: Here, visit: Visit[str]) -> Response:
    user, days = user_of(here, visit), number_of(visit, "days")
    with as_input():
        here.memory.retention.hold(
            user.user_id,
            reason=required(visit, "reason"),
            by=visit.who,
            until=None if days is None else timedelta(days=min(days, 365_000)),
            project_id=user.project_id,
        )
    return visit.back("user", digest=digest_in_path(visit))


def _asks_to_erase(here: Here, visit: Visit[str]) -> Asked:
    _expect_same_id(user_of(here, visit), visit)
    return _asks(
        "Erase this user?",
        "Erase for ever",
        "The keys are destroyed: nothing opens any more, and nobody brings it back.",
        "All modules go, with what was written to third-party stores through this library.",
        "Copies and backups made before open as long as their root key is there: the receipt says "
        "so.",
    )(here, visit)


def _erase(here: Here, visit: Visit[str]) -> Response:
    user, memory = user_of(here, visit), here.memory
    _expect_same_id(user, visit)
    return here.begin(
        visit,
        "erase a user",
        lambda progress: memory.erase_user(
            user.user_id, project_id=user.project_id, progress=progress
        ).to_dict(),
    )


def _expect_same_id(user: UserName, visit: Visit[str]) -> None:
    if visit.form.get("user_id", "") != user.user_id:
        raise HTTPException(
            400,
            "The id that was typed is not the one of this user. It must be exactly that of the "
            "request to erase. Nothing was erased.",
        )


def _rotate(here: Here, visit: Visit[str]) -> Response:
    user, memory = user_of(here, visit), here.memory
    return here.begin(
        visit,
        "rotate a user's keys",
        lambda progress: plain(
            memory.rotate_keys(user.user_id, project_id=user.project_id, progress=progress)
        ),
    )


def _verify(here: Here, visit: Visit[str]) -> Response:
    user, memory = user_of(here, visit), here.memory
    return here.begin(
        visit,
        "verify a user",
        lambda progress: memory.verify(
            user.user_id, project_id=user.project_id, read_only=True, progress=progress
        ).as_dict(),
    )


def _verify_isolation(here: Here, visit: Visit[str]) -> Response:
    user, memory = user_of(here, visit), here.memory
    return here.begin(
        visit,
        "verify that modules are apart",
        lambda _: plain(memory.verify_module_isolation(user.user_id, project_id=user.project_id)),
        can_stop=False,
    )


PAGES: Sequence[Page | Action] = (
    Page("/users", "users", "Users", _users, Users),
    Action("/users/find", "find_user", _find),
    Page("/users/{digest}", "user", "One user", _user, UserShown),
    Action("/users/{digest}/hold", "hold", _held, _asks_to_hold),
    Action("/users/{digest}/erase", "erase", _erase, _asks_to_erase),
    Action(
        "/users/{digest}/rotate",
        "rotate_user",
        _rotate,
        _asks(
            "Rotate this user's keys?",
            "Rotate",
            "All that is stored is sealed anew, and the former key is destroyed.",
        ),
    ),
    Action(
        "/users/{digest}/verify",
        "verify_user",
        _verify,
        _asks("Verify this user?", "Verify", "Every record is opened. Nothing is written."),
    ),
    Action(
        "/users/{digest}/verify-isolation",
        "verify_isolation",
        _verify_isolation,
        _asks(
            "Verify that this user's modules are apart?",
            "Verify",
            "Records of each module are tried with the keys of every other.",
        ),
    ),
)
