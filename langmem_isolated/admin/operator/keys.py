"""Keys: what is pending of rotations, and how often keys have sealed."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from langmem_isolated.admin.operator.pages import Action, Asked, Here, Page, plain
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.lifecycle import KeyStatus


def _keys(here: Here, _visit: Visit[str]) -> KeyStatus:
    return here.memory.key_status()


def _asks(here: Here, _visit: Visit[str]) -> Asked:
    status = here.memory.key_status()
    return Asked(
        "Rotate everybody's sealing keys?",
        [
            f"Users and others who have keys: {status.owners:,}.",
            "All that is stored is sealed anew, in batches; readers and writers go on.",
            "Then the former keys are destroyed. Stopped in between, a later call goes on.",
            "Users who hold their own keys are left out, and counted.",
        ],
        "Rotate all",
    )


def _rotate(here: Here, visit: Visit[str]) -> Response:
    memory = here.memory
    return here.begin(
        visit,
        "rotate everybody's keys",
        lambda progress: plain(memory.rotate_keys(all=True, progress=progress)),
    )


PAGES: Sequence[Page | Action] = (
    Page("/keys", "keys", "Keys and rotation", _keys, KeyStatus),
    Action("/keys/rotate", "rotate_keys", _rotate, _asks),
)
