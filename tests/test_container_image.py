"""The image of the Containerfile: built from the source distribution, and started."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from langmem_isolated import LocalRootKey, __version__
from tests.images import Container, Images, may_mount

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system("buildah"),
    pytest.mark.skipif(not may_mount(), reason="may not mount here, as a container engine does"),
]
PROJECT = Path(__file__).parent.parent
DATABASE = "/data/memory.db"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("images")
    yield Images(folder)
    # 1 GB; pytest would keep it for three runs.
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(images: Images, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Built from what is in the source distribution, and nothing beside it."""
    folder = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder]
    subprocess.run([*build, PROJECT], check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return images.build(folder / f"langmem_isolated-{__version__}", "admin,postgres")


@pytest.fixture
def container(images: Images, image: str, root: Path, tmp_path: Path) -> Container:
    """With an empty volume, and the root key as a secret of root that our group may read."""
    config = images.config(image)
    group = int(config.user.partition(":")[2])
    data, secrets = tmp_path / "data", tmp_path / "secrets"
    for folder in (data, secrets):
        folder.mkdir()
    os.chown(data, group, group)
    key = secrets / "langmem_root_key"
    key.write_text(LocalRootKey.generate_text())
    os.chown(key, 0, group)
    key.chmod(0o440)
    return Container(root, config, data, secrets)


@pytest.fixture(scope="module")
def root(images: Images, image: str) -> Path:
    return images.root_of(image)


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder, with size, time and mode."""
    found = ((path, path.lstat()) for path in root.rglob("*"))
    return {str(path): (one.st_size, one.st_mtime_ns, one.st_mode) for path, one in found}


def end(process: "subprocess.Popen[str]") -> None:
    """Send SIGTERM to the first process within a container, as an engine does to stop it."""
    (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)


def test_an_image_says_how_it_is_run(container: Container):
    config = container.config

    assert config.user == "10001:10001"
    assert config.entrypoint == ["langmem-isolated"]
    assert config.health_check == ["CMD", "langmem-isolated", "doctor"]
    assert config.volumes == {"/data"}
    assert config.labels["org.opencontainers.image.version"] == __version__


def test_an_image_holds_no_installer_no_source_and_no_way_to_more_rights(root: Path):
    found = listing(root)
    names = {Path(path).name for path in found}

    assert not names & {"pip", "setuptools", "src"}
    assert [path for path, (_, _, mode) in found.items() if mode & 0o6000] == []
    assert oct((root / "data").stat().st_mode)[-3:] == "700"


def test_what_is_written_to_the_volume_is_there_for_the_next_container_and_nothing_else_is_written(
    container: Container,
):
    before = listing(container.root)
    made = container.run("schema", "upgrade")
    kept = container.run("retention", "keep", "message", "--module", "tutor", "--days", "90")
    status, told = container.run("retention", "list", "--json")

    assert (made[0], kept[0], status) == (0, 0, 0), (made, kept, told)
    assert json.loads(told)[0]["module_id"] == "tutor"
    assert (container.data / "memory.db").stat().st_mode & 0o777 == 0o600
    assert listing(container.root) == before


def test_the_health_check_tells_a_database_and_a_key_from_none(container: Container):
    command = container.config.health_check[1:]
    assert container.run(*command[1:], entrypoint=command[:1])[0] == 1

    container.run("schema", "upgrade")

    status, told = container.run(*command[1:], entrypoint=command[:1])
    assert (status, "fail" in told) == (0, False), told
    (container.secrets / "langmem_root_key").chmod(0o444)
    status, told = container.run(*command[1:], entrypoint=command[:1])
    assert (status, "mode 0444" in told) == (1, True), told


def test_a_process_has_no_rights_and_cannot_write_to_the_root(container: Container):
    code = (
        "import os, re; told = open('/proc/self/status').read();"
        "print(os.getpid(), os.getuid(), os.getgroups(),"
        " *re.findall(r'(?:CapEff|CapPrm|NoNewPrivs):\\t(\\w+)', told));"
        "open('/opt/langmem-isolated/new', 'w')"
    )

    status, told = container.run("-c", code, entrypoint=["python3"])

    assert told.splitlines()[0] == f"1 10001 [] {'0' * 16} {'0' * 16} 1"
    assert status == 1
    assert "Read-only file system" in told


def test_a_sweeper_that_is_the_first_process_ends_at_sigterm(container: Container):
    container.run("schema", "upgrade")

    with container.start("sweep", "--every", "3600") as sweeper:
        assert sweeper.stdout
        assert sweeper.stdout.readline() == "Nothing was due.\n"
        end(sweeper)
        assert sweeper.wait(timeout=60) == 0


def test_the_admin_page_is_served_and_ends_at_sigterm(container: Container):
    container.run("schema", "upgrade")

    with container.start("serve", "--host", "0.0.0.0", "--port", "0") as server:
        assert server.stdout
        port = int(server.stdout.readline().rpartition(":")[2].strip("/\n"))
        healthy = httpx.get(f"http://127.0.0.1:{port}/health")
        closed = httpx.get(f"http://127.0.0.1:{port}/")
        end(server)
        ended = server.wait(timeout=60)

    assert (healthy.status_code, closed.status_code, ended) == (200, 401, 0)
