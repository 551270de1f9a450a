"""Key files: who may own one and who may read it, before any of it is believed."""

import os
import stat
from typing import NamedTuple

_MOUNTED = stat.S_IRUSR | stat.S_IRGRP


class FileAccess(NamedTuple):
    """Whose a file is, and who may do what with it."""

    owner: int
    group: int
    mode: int

    @classmethod
    def of(cls, descriptor: int) -> "FileAccess":
        """Of the very file that is open, not of what a path leads to a moment later."""
        status = os.fstat(descriptor)
        return cls(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))

    def refusal(self, user: int, groups: frozenset[int]) -> str | None:
        """Why a key in this file is not to be used by ``user``; ``None`` if it may be.

        A file of the user's own, or of root, must be closed to everybody else. The one exception is
        a mounted secret: Docker and Kubernetes give it to root with mode 0440 and a group of the
        container's (``gid:``, ``fsGroup:``), since the container does not run as root. Nobody but
        root can write it, and who reads it was chosen with the group. systemd (since 254) leaves a
        credential to root and root's group, and lets the service read it by an access control list,
        of which mode 0440 shows the mask.

        Args:
            user: Effective user id of the process.
            groups: Its group ids.
        """
        if self.owner not in (user, 0):
            return (
                "The root key file belongs to another user, who could read and exchange it. "
                "Make it a file of the user that runs this process."
            )
        is_given = self.group in groups or self.group == 0
        is_mounted_secret = self.owner == 0 and self.mode == _MOUNTED and is_given
        if self.mode & (stat.S_IRWXG | stat.S_IRWXO) and not is_mounted_secret:
            return (
                f"The root key file has mode {self.mode:04o}: others may read it. "
                "Run `chmod 600` on it; if others may have read it, rotate the key."
            )
        return None


def refusal(descriptor: int) -> str | None:
    """Why the key in an open file is not to be used by this process; ``None`` if it may be."""
    if os.name != "posix":
        return None
    groups = frozenset({os.getegid(), *os.getgroups()})
    return FileAccess.of(descriptor).refusal(os.geteuid(), groups)
