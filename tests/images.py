"""Container images without an engine or a registry: built by buildah, started as an engine does.

The base is made of this machine's Python and the libraries it needs, in place of a pulled one, and
wheels of what is installed here: nothing is fetched.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from importlib.metadata import distribution, files
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name

from tests.installed import closure, our_requirements

_PROGRAMS = ("sh", "mkdir", "chown")
_OF_SYSTEMS = (
    *("libgcc_s.so.1", "libstdc++.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"),
    *("libutil.so.1", "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2"),
)
_LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "__pycache__",
    "EXTERNALLY-MANAGED",
    "config-*",
    "_tkinter*",
)
# Its own namespaces of mounts and processes, the root read-only, no way to more rights: what
# `--read-only --cap-drop=all --security-opt=no-new-privileges` asks of an engine.
_START = """
set -e
root=$1 data=$2 secrets=$3 user=$4; shift 4
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
mount --bind "$secrets" "$root/run/secrets"
mount -o remount,bind,ro "$root/run/secrets"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""


def may_mount() -> bool:
    """Whether this process may make namespaces and mount in them."""
    command = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return os.geteuid() == 0 and subprocess.call(command, stderr=subprocess.DEVNULL) == 0


class Config(NamedTuple):
    """What an image says of how it is run."""

    user: str
    entrypoint: list[str]
    environment: list[str]
    health_check: list[str]
    volumes: set[str]
    labels: dict[str, str]


class Images:
    """Images in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        places = ("--root", folder / "storage", "--runroot", folder / "run")
        # The driver that works everywhere, above an overlay, too.
        self._buildah = ["buildah", *map(str, places), "--storage-driver", "vfs"]

    def buildah(self, *arguments: object) -> str:
        """What a command of buildah prints; fails with all it says."""
        command = [*self._buildah, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def build(self, context: Path, extras: str) -> str:
        """Build the Containerfile of a folder from wheels of what is installed here."""
        wheels = self._wheels(extras.split(","))
        given = {
            "BASE": self._base(),
            "EXTRAS": extras,
            "PIP_CONSTRAINT": "/wheels/constraints.txt",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/wheels",
        }
        arguments = [part for pair in given.items() for part in ("--build-arg", "=".join(pair))]
        self.buildah(
            *("bud", "--quiet", "--format", "docker", "--isolation", "chroot", "--pull-never"),
            *("--volume", f"{wheels}:/wheels:ro", *arguments, "--tag", "localhost/ours", context),
        )
        return "localhost/ours"

    def _wheels(self, extras: Sequence[str]) -> Path:
        folder = self._folder / "wheels"
        folder.mkdir()
        needed = closure([*our_requirements(*extras), Requirement("hatchling")])
        pinned = folder / "constraints.txt"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in needed.items()))
        for name in needed:
            _pack(name, folder)
        return folder

    def _base(self) -> str:
        root = self._folder / "base"
        _copy_python(root)
        made = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", made, root, "/")
        self.buildah("commit", "--quiet", "--rm", made, "localhost/base")
        return "localhost/base"

    def config(self, image: str) -> Config:
        """What is written in an image."""
        told: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", image))
        found = told["Docker"]["config"]
        return Config(
            found["User"],
            found["Entrypoint"],
            found["Env"],
            found["Healthcheck"]["Test"],
            set(found["Volumes"]),
            found["Labels"],
        )

    def root_of(self, image: str) -> Path:
        """The root of the file system of a new container."""
        return Path(self.buildah("mount", self.buildah("from", "--pull-never", image)))


def _pack(name: str, folder: Path) -> None:
    """Make a wheel again of an installed package, without bytecode and scripts."""
    found = distribution(name)
    tags = {line.removeprefix("Tag: ") for line in (found.read_text("WHEEL") or "").splitlines()}
    tag = next(tag for tag in map(str, sys_tags()) if tag in tags)
    stem = canonicalize_name(name).replace("-", "_")
    with zipfile.ZipFile(folder / f"{stem}-{found.version}-{tag}.whl", "w") as wheel:
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(file.locate(), file.as_posix())


def _copy_python(root: Path) -> None:
    root.mkdir(mode=0o755)
    for name in ("bin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
    python, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    programs = [python, *(Path(shutil.which(name) or name) for name in _PROGRAMS)]
    modules = [path for path in (library / "lib-dynload").glob("*.so") if "tk" not in path.name]
    libraries = {path for file in (*programs, *modules) for path in _libraries(file)}
    # Wheels expect them of every system.
    libraries |= {path for name in _OF_SYSTEMS for path in Path("/usr").glob(f"lib*/**/{name}")}
    for file in (*programs, *libraries):
        copy = root / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    copy = root / library.relative_to("/")
    shutil.copytree(library, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
    _copy_pip(root, python)
    command = root / "usr/local/bin/python3"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.symlink_to(python)
    for folder in ("proc", "dev", "tmp", "run/secrets"):
        (root / folder).mkdir(parents=True)


def _copy_pip(root: Path, python: Path) -> None:
    """Images of Python bring it, too."""
    asked = [python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    target = root / Path(told).relative_to("/")
    for file in files("pip") or ():
        if file.suffix != ".pyc" and ".." not in file.parts:
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), copy)


def _libraries(file: Path) -> list[Path]:
    told = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", told)]


class Container(NamedTuple):
    """A root that is mounted anew, read-only, for every process that is run in it."""

    root: Path
    config: Config
    data: Path
    secrets: Path

    def run(self, *command: str, entrypoint: Sequence[str] | None = None) -> tuple[int, str]:
        """Run a process to its end: its status, and what it printed."""
        done = subprocess.run(
            self._command(command, entrypoint), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a process: the first one of its namespace, as in a container."""
        return subprocess.Popen(self._command(command), stdout=subprocess.PIPE, text=True)

    def _command(
        self, command: Sequence[str], entrypoint: Sequence[str] | None = None
    ) -> list[str]:
        first = self.config.entrypoint if entrypoint is None else entrypoint
        return [
            *("env", "--ignore-environment", *self.config.environment, "/usr/bin/unshare"),
            *("--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", _START, "sh"),
            *(str(path) for path in (self.root, self.data, self.secrets)),
            *(self.config.user, *first, *command),
        ]
