"""Taking along: an archive of everything, sent and not kept."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Mine, Pages, a_place_in

_NAMES = {"full": "my-memory.zip", "mem": "my-memory.mem.zip"}
_CHUNK = 256 * 1024
# Of nobody else: what has it is removed.
_PREFIX = "langmem-isolated-download-"
# No answer to a request takes so long: what is older, a process left that was killed.
_LEFT_SECONDS = 3600
# The database and the disk are everybody's: so many archives are made at once in this process.
_AT_ONCE = 4
_making = threading.BoundedSemaphore(_AT_ONCE)


def routes(pages: Pages) -> list[Route]:
    """What can be taken along, and the archive."""
    return [
        pages.get("/download", _offer, "download"),
        pages.post("/download", _send, "send"),
    ]


def _offer(mine: Mine) -> Response:
    return mine.page("download", "Take everything along", current="download")


def _send(mine: Mine) -> Response:
    name = _NAMES.get(mine.visit.form.get("form", ""), _NAMES["full"])
    with a_place_in(_making):
        _remove_left()
        archive, length = _exported(mine, name)
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(length),
    }
    return StreamingResponse(_parts(archive), media_type="application/zip", headers=headers)


def _remove_left() -> None:
    """Remove what processes that were killed left of archives: it is in plaintext."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Another's, or gone meanwhile.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(folder)


def _exported(mine: Mine, name: str) -> tuple[IO[bytes], int]:
    """The archive in a file without a name, which goes when it is closed, or the process ends."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        path = Path(folder) / name
        mine.memory.export_user(output=path, **mine.who)
        archive = tempfile.TemporaryFile()  # noqa: SIM115 - who sends it closes it
        with path.open("rb") as whole:
            shutil.copyfileobj(whole, archive, _CHUNK)
    length = archive.tell()
    archive.seek(0)
    return archive, length


def _parts(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while part := archive.read(_CHUNK):
            yield part
