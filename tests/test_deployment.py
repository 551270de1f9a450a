"""The files of examples/deployment: linted, and run where what they need is to be had here."""

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from langmem_isolated import IsolatedMemory, LocalRootKey, __version__
from langmem_isolated._runtime import environment
from langmem_isolated.errors import RowLevelSecurityError
from tests.command_line import KEY, run
from tests.postgres import PostgresServer

PROJECT = Path(__file__).parent.parent
DEPLOYMENT = PROJECT / "examples" / "deployment"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
UNITS = sorted(DEPLOYMENT.glob("*.service")) + sorted(DEPLOYMENT.glob("*.timer"))
TOOLS = Path(sys.executable).parent


def checked(*command: object, **kwargs: Any) -> str:
    """What a command prints; fails with all it says."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_finds_nothing_in_the_containerfile():
    checked(TOOLS / "hadolint", "--failure-threshold", "style", PROJECT / "Containerfile")


def test_the_compose_file_is_one():
    schema = ("--builtin-schema", "vendor.compose-spec")

    checked(TOOLS / "check-jsonschema", *schema, DEPLOYMENT / "compose.yaml")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_the_compose_file_has_no_rights_that_it_does_not_need(name: str):
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert all(mapped.startswith("127.0.0.1:") for mapped in service.get("ports", ()))
    assert "privileged" not in service


def test_secrets_of_the_compose_file_are_files_that_the_script_makes():
    told = (DEPLOYMENT / "make-secrets.sh").read_text()

    assert set(COMPOSE["secrets"]) == {name for one in SERVICES.values() for name in one["secrets"]}
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert name in told or name.partition("_")[0] in told, name
    given = [value for one in SERVICES.values() for value in one["environment"].values()]
    assert not [value for value in given if re.search(r"://[^@/]*:[^@/]*@", value)]


def test_the_image_has_the_version_of_the_package():
    assert f"ARG VERSION={__version__}\n" in (PROJECT / "Containerfile").read_text()
    assert {one["image"] for one in OURS.values()} == {f"localhost/langmem-isolated:{__version__}"}


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_is_given_variables_that_are_read(name: str):
    known = {value for name, value in vars(environment).items() if name.endswith("_VARIABLE")}

    assert set(OURS[name]["environment"]) <= {*known, "PGPASSFILE"}


def test_the_roles_are_those_that_the_command_prints():
    assert (DEPLOYMENT / "roles.sql").read_text() == run("schema", "roles").stdout


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes, owned by who runs the tests."""
    folder = tmp_path_factory.mktemp("secrets") / "secrets"
    own_chown = folder.parent / "bin"
    own_chown.mkdir()
    # To give files away takes root; who gets them is looked at in the script's text.
    (own_chown / "chown").symlink_to("/bin/true")
    path = f"{own_chown}:{os.environ['PATH']}"
    script = DEPLOYMENT / "make-secrets.sh"
    checked("sh", script, folder, env={**os.environ, "PATH": path})
    return folder


def test_secrets_are_made_once_and_for_nobody_else_to_read(secrets: Path):
    assert {path.name for path in secrets.iterdir()} == {*COMPOSE["secrets"], "app_pgpass"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o400}
    assert LocalRootKey.from_file(secrets / "langmem_root_key")
    assert len({path.read_text() for path in secrets.glob("*_password")}) == 4

    again = subprocess.run(
        ["sh", DEPLOYMENT / "make-secrets.sh", secrets], capture_output=True, check=False
    )
    assert again.returncode != 0


class Composed:
    """A server that ran the scripts of PostgreSQL's image, and asks for passwords."""

    def __init__(self, server: PostgresServer, secrets: Path) -> None:
        self._server, self._secrets = server, secrets
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE memory")
            self._run_scripts()
            (server.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
            self._wait_for_passwords()

    def _wait_for_passwords(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self._here("postgresql://langmem_owner@postgres/memory")).close()
            except psycopg.OperationalError:
                return
            time.sleep(0.05)
        raise TimeoutError("PostgreSQL asked for no passwords within 30 s")

    def _run_scripts(self) -> None:
        for mounted in SERVICES["postgres"]["volumes"]:
            source, _, target = mounted.partition(":")
            if target.startswith("/docker-entrypoint-initdb.d/"):
                self._initialize(DEPLOYMENT / source)

    def _initialize(self, script: Path) -> None:
        environment = {
            **os.environ,
            "PATH": f"{self._server.programs}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._server.port),
            "POSTGRES_USER": "postgres",
            "POSTGRES_DB": "memory",
            "SECRETS": str(self._secrets),
        }
        as_sql = ("psql", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "memory", "-f", script)
        checked(*(("sh", script) if script.suffix == ".sh" else as_sql), env=environment)

    def run(self, name: str, *command: str) -> str:
        """Run a service of ours as the compose file says, or another command in its place."""
        done = run(*(command or SERVICES[name]["command"]), **self.environment(name))
        assert done.exit_code == 0, done.output
        return done.stdout

    def environment(self, name: str) -> dict[str, str]:
        """That of a service, with the places that its container has and this machine has not."""
        service = SERVICES[name]
        given = {key: self._here(value) for key, value in service["environment"].items()}
        passwords = Path(given["PGPASSFILE"]).name
        assert passwords in service["secrets"]
        given["PGPASSFILE"] = str(self._passwords(passwords))
        given["key"] = (self._secrets / "langmem_root_key").read_text().strip()
        given.pop("LANGMEM_ISOLATED_ERASURE_LOG", None)
        return given

    @contextmanager
    def serving(self) -> Iterator[int]:
        """The admin page, at a port that is free."""
        places = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=8321": "--port=0"}
        command = [places.get(part, part) for part in SERVICES["admin"]["command"]]
        command[-1] = command[-1].replace("/run/secrets", str(self._secrets))
        given = self.environment("admin")
        given["LANGMEM_ISOLATED_ROOT_KEY"] = given.pop("key")
        program = [sys.executable, "-m", "langmem_isolated", *command]
        with subprocess.Popen(
            program, env={**os.environ, **given}, stdout=subprocess.PIPE, text=True
        ) as server:
            try:
                assert server.stdout
                yield int(server.stdout.readline().rpartition(":")[2].strip("/\n"))
            finally:
                server.terminate()
        assert server.returncode == 0

    def url(self, role: str) -> str:
        """The URL of a role with its password."""
        password = (self._secrets / f"{role}_password").read_text().strip()
        return self._here(f"postgresql://langmem_{role}:{password}@postgres/memory")

    def _here(self, url: str) -> str:
        return url.replace("@postgres/", f"@127.0.0.1:{self._server.port}/")

    def _passwords(self, name: str) -> Path:
        here = self._server.folder / name
        if not here.exists():
            told = (self._secrets / name).read_text()
            here.touch(mode=0o600)
            here.write_text(told.replace("postgres:5432", f"127.0.0.1:{self._server.port}"))
        return here


@pytest.fixture(scope="module")
def composed(secrets: Path) -> Iterator[Composed]:
    with PostgresServer() as server:
        yield Composed(server, secrets)


def test_the_compose_files_jobs_make_a_database_that_serves_one_scope_at_a_time(
    composed: Composed, secrets: Path, tmp_path: Path
):
    composed.run("schema")
    composed.run("row-level-security")
    root_key = LocalRootKey.from_file(secrets / "langmem_root_key")
    as_application = IsolatedMemory(
        composed.url("app"), root_key=root_key, row_level_security="required", auto_upgrade=False
    )
    with as_application as memory:
        store = memory.scope(user_id="ann", module_id="tutor").store()
        store.put(("notes",), "expired", {"text": "Hi"}, ttl=6e-8)
        with pytest.raises(RowLevelSecurityError):
            memory.sweep()

    at_intervals = SERVICES["sweeper"]["command"]
    assert at_intervals[:3] == ["sweep", "--every", "3600"]
    swept = composed.run("sweeper", "sweep", *at_intervals[3:])
    healthy = composed.run("sweeper", "doctor")
    again = composed.run("schema")

    assert json.loads(swept)["counts"] == {"item": 1}
    assert "fail" not in healthy
    assert "nothing" in again.lower()


@pytest.mark.system("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_a_unit_and_finds_it_closed(unit: Path, tmp_path: Path):
    here = tmp_path / unit.name
    # It is looked up, too.
    program = re.compile(r"/opt/langmem-isolated/bin/langmem-isolated(?= )")
    here.write_text(program.sub(str(TOOLS / "langmem-isolated"), unit.read_text()))

    told = checked("systemd-analyze", "verify", here)
    checked("systemd-analyze", "security", "--offline=true", "--threshold=20", here)

    assert told == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_is_one(unit: Path):
    (command,) = re.findall(r"^ExecStart=\S+ (.+)$", unit.read_text(), re.MULTILINE)

    assert run(*command.split()[:1], "--help").exit_code == 0
    options = {part for part in command.split() if part.startswith("--")}
    assert options <= set(run(*command.split()[:1], "--help").stdout.split())


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[IsolatedMemory]:
    """An SQLite database with a session of Ann's and one of Bob's, and a log of erasures."""
    url, log = f"sqlite:///{tmp_path}/memory.db", tmp_path / "erasures.jsonl"
    root_key = LocalRootKey(bytes(range(32)))
    with IsolatedMemory(url, root_key=root_key, erasure_log=log) as memory:
        for user in ("ann", "bob"):
            add_message(memory, user)
        yield memory


def add_message(memory: IsolatedMemory, user: str) -> None:
    memory.scope(user_id=user, module_id="tutor").chat_history("monday").add_user_message("Hi")


def test_a_daily_backup_replaces_those_that_are_too_old(filled: IsolatedMemory, tmp_path: Path):
    backups = tmp_path / "backups"
    backups.mkdir()
    old, recent, other = (
        backups / name for name in ("memory-2000-01-01.db", "memory-2000-01-02.db", "memory.db")
    )
    for path, age in ((old, 31), (recent, 29), (other, 31)):
        path.touch()
        os.utime(path, (time.time() - age * 86_400,) * 2)
    given = {
        "LANGMEM_ISOLATED_DATABASE": f"sqlite:///{tmp_path}/memory.db",
        "LANGMEM_ISOLATED_ROOT_KEY": KEY,
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
    }

    told = checked("sh", DEPLOYMENT / "backup.sh", backups, "30", env={**os.environ, **given})

    made = set(backups.iterdir()) - {recent, other}
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o600]
    assert old not in made
    assert json.loads(told)


class Litestream:
    """Litestream with the configuration of the example, and a folder in place of a bucket."""

    def __init__(self, folder: Path) -> None:
        self._database = str(folder / "memory.db")
        config = yaml.safe_load((DEPLOYMENT / "litestream.yml").read_text())
        (database,) = config["dbs"]
        database["path"] = self._database
        assert database["replica"].pop("bucket") == "$LITESTREAM_BUCKET"
        database["replica"] |= {"type": "file", "path": str(folder / "replica")}
        self._config = folder / "litestream.yml"
        self._config.write_text(yaml.safe_dump(config))

    @contextmanager
    def replicating(self) -> Iterator[None]:
        """Copy what is written, as long as the block runs."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(self._command("replicate"), **quiet) as process:
            try:
                yield
            finally:
                process.terminate()

    def restore(self, output: Path) -> bool:
        """Put the newest copy there; whether there was one."""
        command = [*self._command("restore"), "-o", output, self._database]
        output.unlink(missing_ok=True)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _command(self, name: str) -> list[object]:
        return [TOOLS / "litestream", name, "-config", self._config]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it within 60 s"
        time.sleep(0.2)


def test_a_copy_of_litestream_is_restored_without_who_was_erased_since(
    filled: IsolatedMemory, tmp_path: Path
):
    litestream, copy = Litestream(tmp_path), tmp_path / "copy.db"
    url = ("--database", f"sqlite:///{tmp_path}/memory.db")
    with litestream.replicating():
        wait_for(lambda: litestream.restore(copy))
        filled.erase_user("ann")

    # Its own transaction may have kept the log from being emptied as long as it ran.
    assert run("erase", "--finish", *url).exit_code == 0
    restored = tmp_path / "restored.db"
    log = ("--erasure-log", tmp_path / "erasures.jsonl")
    assert run("restore", copy, "--database", f"sqlite:///{restored}", *log).exit_code == 0
    with IsolatedMemory(f"sqlite:///{restored}", root_key=LocalRootKey(bytes(range(32)))) as memory:
        counts = [
            memory.scope(user_id=user, module_id="tutor").verify().messages
            for user in ("ann", "bob")
        ]
    assert counts == [0, 1]


def test_the_compose_files_admin_page_is_healthy_and_closed_without_the_token(
    composed: Composed, secrets: Path
):
    composed.run("schema")
    composed.run("row-level-security")
    check = SERVICES["admin"]["healthcheck"]["test"]
    token = (secrets / "admin_token").read_text().strip()

    with composed.serving() as port:
        program = [sys.executable, *(part.replace("8321", f"{port}") for part in check[2:])]
        healthy = subprocess.run(program, check=False)
        page = f"http://127.0.0.1:{port}/"
        without = httpx.get(page)
        within = httpx.get(page, headers={"Authorization": f"Bearer {token}"})

    assert check[:2] == ["CMD", "python3"]
    assert healthy.returncode == 0
    assert without.status_code == 401
    assert within.status_code == 200
    assert subprocess.run(program, stderr=subprocess.DEVNULL, check=False).returncode == 1
