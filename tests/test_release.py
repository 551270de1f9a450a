"""What a release is made of: distributions, their bill of materials, and who publishes them."""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from langmem_isolated import __version__
from tests.test_docs import table

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "langmem_isolated"
BILL = PACKAGE / "admin" / "vendored.cdx.json"
TOOLS = Path(sys.executable).parent
WORKFLOWS: dict[str, Any] = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
}
STEPS = [
    (job, step)
    for workflow in WORKFLOWS.values()
    for job in workflow["jobs"].values()
    for step in job["steps"]
]


def checked(*command: object, cwd: Path = PROJECT, **variables: str) -> str:
    """What a command prints; fails with all it says."""
    line, environment = [str(part) for part in command], os.environ | variables
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    checked(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(distributions / f"langmem_isolated-{__version__}-py3-none-any.whl")


def test_distributions_pass_the_checks_of_the_index(distributions: Path):
    files = sorted(distributions.iterdir())

    assert [path.suffix for path in files] == [".whl", ".gz"]
    checked(TOOLS / "twine", "--no-color", "check", "--strict", *files)
    checked(TOOLS / "check-wheel-contents", files[0])


def test_a_wheel_has_every_file_of_the_package_and_none_beside_it(wheel: zipfile.ZipFile):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    assert names == {path.relative_to(PROJECT).as_posix() for path in files - {BILL}}


def test_the_wheel_of_the_source_distribution_runs_in_an_environment_of_its_own(
    distributions: Path, disk_path: Path
):
    (released,) = distributions.glob("*.whl")
    made = disk_path / "environment"
    checked(sys.executable, "-m", "venv", "--without-pip", made)
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", made / "bin" / "python")
    checked(*pip, "install", "--no-deps", "--no-index", released)
    # What it needs is that of this environment, whose link to the checkout does not count there.
    there: Any = {"cwd": disk_path, "PYTHONPATH": sysconfig.get_path("purelib")}
    program = "from langmem_isolated import admin; print(admin.__file__)"

    assert checked(made / "bin" / "python", "-c", program, **there).startswith(str(made))
    told = checked(made / "bin" / "langmem-isolated", "--version", **there)
    assert told == f"langmem-isolated {__version__}\n"
    checked(made / "bin" / "langmem-isolated", "demo", **there)


def test_a_wheel_carries_the_bill_of_what_others_wrote_in_it(wheel: zipfile.ZipFile):
    (name,) = (name for name in wheel.namelist() if "/sboms/" in name)

    assert name.endswith(f"{__version__}.dist-info/sboms/{BILL.name}")
    assert wheel.read(name) == BILL.read_bytes()


def test_a_wheel_asks_for_what_the_page_on_what_is_installed_says(wheel: zipfile.ZipFile):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", ())]
    core = {one.name for one in asked if one.marker is None}
    page = (PROJECT / "docs" / "explanation" / "installed.md").read_text()

    told = {canonicalize_name(name.strip("`")) for name, *_ in table(page, "What each is for")}
    assert told == {canonicalize_name(name) for name in core}


def test_the_bill_is_valid_and_names_every_vendored_file_with_its_version():
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(BILL.read_text()) is None
    components = {one["description"]: one for one in json.loads(BILL.read_text())["components"]}
    # What others wrote for browsers is shipped minified, and ours is not.
    vendored = {path.relative_to(PROJECT).as_posix() for path in PACKAGE.rglob("*.min.*")}

    assert set(components) == vendored
    for name, component in components.items():
        (digest,) = component["hashes"]
        content = (PROJECT / name).read_bytes()
        assert digest["content"] == hashlib.sha256(content).hexdigest()
        assert component["version"].encode() in content


def test_workflows_pass_their_linters():
    checked(TOOLS / "zizmor", "--offline", "--pedantic", "--no-progress", ".github/workflows")
    files = sorted((PROJECT / ".github" / "workflows").iterdir())
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        checked(TOOLS / "check-jsonschema", "--builtin-schema", schema, *files)


def test_actions_are_named_by_commit_with_the_version_beside_it():
    text = "".join(path.read_text() for path in (PROJECT / ".github" / "workflows").iterdir())
    used = re.findall(r"uses: (.+)", text)

    assert len(used) == len([step for _, step in STEPS if "uses" in step])
    for one in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def test_only_the_job_that_publishes_can_ask_for_an_identity_and_it_runs_none_of_our_code():
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    publishing = [job for job, _ in STEPS if "id-token" in job["permissions"]]

    assert publishing
    for job in publishing:
        assert job["environment"]["name"] == "pypi"
        assert job["permissions"] == {"id-token": "write"}
        assert all("run" not in step for step in job["steps"])
        names = [step["uses"].partition("@")[0] for step in job["steps"]]
        assert names == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    given = json.dumps(WORKFLOWS["release"])
    assert "secrets." not in given
    assert "password" not in given
