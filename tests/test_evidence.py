"""Evidence packs: signed reports that are refused when any byte of them was changed."""

import contextlib
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import EvidenceKeyInvalid, EvidenceRefused
from langmem_isolated.lifecycle import EvidenceKey, VerificationReport, check_evidence
from langmem_isolated.lifecycle.evidence.keys import public_key
from langmem_isolated.lifecycle.evidence.pack import evidence_of, signed
from langmem_isolated.lifecycle.verification.confidence import Coverage
from langmem_isolated.lifecycle.verification.report import Check, Finding
from tests.command_line import error_line, run, words
from tests.conftest import Attacker, Door

VECTOR = Path(__file__).parent / "vectors" / "evidence_v1.json"
# The first test key of RFC 8032, 7.1.
SEED = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
KEY = EvidenceKey.from_text(f"lmi-evidence-secret:{SEED}")
OTHER = EvidenceKey.from_text(EvidenceKey.generate_text())
MOMENT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def report() -> VerificationReport:
    """One that never changes, with something of everything in it."""
    found = Finding("message: it fails authentication", "ab" * 16, "cd" * 16)
    checks = [
        Check("tables", 7),
        Check("records", 7, 2, (found, found)),
        Check("wrapped stores", 0, not_checked="no scope ever wrote to one: «…»"),
    ]
    return VerificationReport(
        subject="installation", began_at=MOMENT, finished_at=MOMENT + timedelta(seconds=3),
        scopes=1000, verified=300, locked=2, ended=1, coverage=Coverage(300, 1000),
        counts={"message": 7}, cross_opening_attempts=2**53 - 1, checks=tuple(checks),
    )  # fmt: skip


def pack() -> bytes:
    made = evidence_of(report(), {"python": "CPython 3.11.2"}, "00" * 32, MOMENT)
    return signed(made, KEY)


def test_the_form_is_frozen():
    assert VECTOR.read_bytes() == pack()
    assert public_key(KEY.public_text) == KEY.public
    assert KEY.public_text == f"lmi-evidence-public:{PUBLIC}"


def test_a_frozen_pack_is_what_its_description_says():
    """Taken apart once more with other tools: RFC 8785 by hand, and the signature of RFC 8032."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    file = json.loads(VECTOR.read_bytes())
    plain = json.dumps(file["pack"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    message = b"langmem-isolated evidence pack v1\0" + plain.encode()

    assert file.keys() == {"format", "key", "pack", "signature"}
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(file["key"]))
    key.verify(bytes.fromhex(file["signature"]), message)


def test_every_byte_that_is_changed_has_it_refused():
    few = replace(report(), checks=report().checks[1:2])
    good = signed(evidence_of(few, {}, None, MOMENT), KEY)
    assert check_evidence(good, KEY.public_text).pack["report"]["found"] == 2

    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(EvidenceRefused):
            check_evidence(bytes(changed), KEY.public_text)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_put_in_taken_out_or_exchanged_has_it_refused(data: st.DataObject):
    good = pack()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(start + 8, len(good))))
    instead = data.draw(st.binary(max_size=8))
    changed = good[:start] + instead + good[end:]
    if changed == good:
        return

    with pytest.raises(EvidenceRefused):
        check_evidence(changed, KEY.public_text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"key":"', '"key": "'),
        lambda text: f"{text}\n",
        lambda text: text.replace('"found":2', '"found":2.0', 1),
        lambda text: text.replace('"found":2', '"found":2e0', 1),
        lambda text: text.replace("«", "\\u00ab"),
        lambda text: '{"format":"x",' + text[1:],
        lambda text: text.replace('"signature":"', '"signature":"0X', 1),
        lambda text: text[:-66].upper() + text[-66:],
        lambda _: "[" * 100_000,
        lambda _: "null",
        lambda _: "",
    ],
)
def test_other_spellings_of_the_same_are_refused(change: Callable[[str], str]):
    changed = change(pack().decode()).encode()
    assert changed != pack()

    with pytest.raises(EvidenceRefused):
        check_evidence(changed, KEY.public_text)


def test_a_signature_in_capitals_is_another_file():
    file = json.loads(pack())
    changed = pack().replace(file["signature"].encode(), file["signature"].upper().encode())

    with pytest.raises(EvidenceRefused):
        check_evidence(changed, KEY.public_text)


def test_the_key_that_comes_along_is_not_believed():
    made = evidence_of(report(), {}, None, MOMENT)
    forged = signed(made, OTHER)
    as_ours = forged.replace(OTHER.public.hex().encode(), KEY.public.hex().encode())

    assert check_evidence(forged, OTHER.public_text).is_clean is False
    for one in (forged, as_ours):
        with pytest.raises(EvidenceRefused):
            check_evidence(one, KEY.public_text)


@pytest.mark.parametrize(
    "text",
    [
        # A root key, and the public half.
        "A" * 43 + "=",
        KEY.public_text,
        f"lmi-evidence-secret:{SEED[:-1]}",
        f"lmi-evidence-secret:{SEED}A",
        # The same bytes with other bits behind the last one.
        f"lmi-evidence-secret:{SEED[:-1]}B",
        "",
        7,
        None,
    ],
)
def test_what_is_no_secret_key_signs_nothing_and_is_not_shown(text: Any):
    with pytest.raises(EvidenceKeyInvalid) as refused:
        EvidenceKey.from_text(text)

    assert SEED[:8] not in str(refused.value)


def test_a_secret_key_is_no_public_key_and_is_not_shown():
    text = f"lmi-evidence-secret:{SEED}"
    with pytest.raises(EvidenceKeyInvalid) as refused:
        check_evidence(pack(), text)

    assert SEED not in str(refused.value)
    assert SEED not in repr(KEY)


def test_a_key_file_that_others_may_read_signs_nothing(tmp_path: Path):
    path = tmp_path / "evidence.key"
    path.write_text(f"lmi-evidence-secret:{SEED}\n")
    path.chmod(0o640)
    with pytest.raises(EvidenceKeyInvalid):
        EvidenceKey.from_file(path)
    path.chmod(0o600)

    assert EvidenceKey.from_file(path).public == KEY.public
    with pytest.raises(EvidenceKeyInvalid):
        EvidenceKey.from_file(tmp_path / "absent.key")


async def test_a_pack_of_a_memory_names_nobody_and_says_what_it_is_of(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    scope = memory.scope(user_id="alice in wonderland", module_id="tutor")
    scope.chat_history("monday").add_user_message("a secret")
    attacker("UPDATE records SET size = 1")
    found = memory.verify(read_only=True)

    made = await door(memory, "evidence_pack", found, key=KEY)

    evidence = check_evidence(made, KEY.public_text)
    assert (evidence.is_clean, evidence.key) == (False, KEY.public_text)
    assert (scope.digest() or "?") in made.decode()
    for name in ("alice", "tutor", "monday", "secret"):
        assert name not in made.decode().lower().replace("lmi-evidence-secret", "")
    environment = evidence.pack["environment"]
    assert environment["database"].startswith("PostgreSQL" if attacker.is_postgres else "SQLite 3")
    assert {"python", "cryptography", "langgraph", "langmem-isolated"} <= environment.keys()
    assert evidence.pack["state"] == memory.erase_user("nobody").store_hash_before
    told = {one["what"] for one in evidence.pack["not_checked"]}
    assert {"canaries", "row-level security", "promise 6", "older states"} <= told


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nothing_is_signed_without_a_key_or_a_report(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("LANGMEM_ISOLATED_EVIDENCE_KEY", raising=False)
    monkeypatch.delenv("LANGMEM_ISOLATED_EVIDENCE_KEY_FILE", raising=False)
    with pytest.raises(EvidenceKeyInvalid):
        memory.evidence_pack(report())
    with pytest.raises(TypeError):
        memory.evidence_pack("clean", key=KEY)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        memory.evidence_pack(report(), key=SEED)  # type: ignore[arg-type]
    monkeypatch.setenv("LANGMEM_ISOLATED_EVIDENCE_KEY", f"lmi-evidence-secret:{SEED}")
    assert check_evidence(memory.evidence_pack(report()), KEY.public_text)


# --- time stamps


def openssl(*arguments: object, cwd: Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A time stamping authority of our own: a root, and a certificate for time stamps."""
    folder = tmp_path_factory.mktemp("authority")
    (folder / "tsa.cnf").write_text(
        "[tsa]\nserial = serial\nsigner_cert = tsa.pem\nsigner_key = tsa.key\n"
        "signer_digest = sha256\ndefault_policy = 1.2.3.4\ndigests = sha256, sha512\n"
        "ess_cert_id_alg = sha256\n"
        "[ext]\nextendedKeyUsage = critical, timeStamping\n"
    )
    (folder / "serial").write_text("01")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj")
    openssl(*new, "/CN=root", "-x509", "-keyout", "root.key", "-out", "root.pem", cwd=folder)
    openssl(*new, "/CN=tsa", "-keyout", "tsa.key", "-out", "tsa.csr", cwd=folder)
    by_root = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "30")
    openssl(
        "x509", "-req", "-in", "tsa.csr", *by_root, "-extfile", "tsa.cnf", "-extensions", "ext",
        "-out", "tsa.pem", cwd=folder,
    )  # fmt: skip
    return folder


def stamp(folder: Path, content: bytes) -> bytes:
    """What the authority answers, as `openssl ts` and curl get it."""
    (folder / "file").write_bytes(content)
    openssl("ts", "-query", "-data", "file", "-sha512", "-cert", "-out", "q.tsq", cwd=folder)
    config = ("-config", "tsa.cnf", "-section", "tsa")
    openssl("ts", "-reply", "-queryfile", "q.tsq", *config, "-out", "r.tsr", cwd=folder)
    return (folder / "r.tsr").read_bytes()


def test_a_time_stamp_says_when_a_pack_was_there_at_the_latest(authority: Path):
    response, roots = stamp(authority, pack()), [(authority / "root.pem").read_bytes()]

    found = check_evidence(pack(), KEY.public_text, stamp=response, roots=roots)

    assert found.stamped_at is not None
    assert abs(found.stamped_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_time_stamp_of_something_else_or_of_anybody_is_refused(authority: Path):
    roots = [(authority / "root.pem").read_bytes()]
    response = stamp(authority, pack())
    of_another = stamp(authority, b"something else")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-x509", "-keyout",
            "other.key", "-out", "other.pem", cwd=authority)  # fmt: skip
    others = [(authority / "other.pem").read_bytes()]

    for answer, trusted in (
        (of_another, roots), (response, others), (response, []), (response[:-1], roots),
        (b"", roots), (response, [b"no certificate"]),
    ):  # fmt: skip
        with pytest.raises(EvidenceRefused):
            check_evidence(pack(), KEY.public_text, stamp=answer, roots=trusted)


# --- the command line


@pytest.fixture
def installation(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(bytes(range(32)))) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("Hi")
    return url


def keys_in(folder: Path) -> tuple[Path, str]:
    """A pair made by the command: where the secret key is, and the public one."""
    path = folder / "evidence.key"
    made = run("evidence", "keygen", "--file", path, key=None)
    assert (made.exit_code, path.stat().st_mode & 0o777) == (0, 0o600)
    return path, made.stdout.strip()


def test_a_report_is_written_signed_and_checked_without_a_database(
    tmp_path: Path, installation: str
):
    path, public = keys_in(tmp_path)
    signing = {"LANGMEM_ISOLATED_EVIDENCE_KEY_FILE": str(path)}
    file = tmp_path / "report.json"

    verified = run("verify", "--database", installation, "--evidence", file, **signing)
    again = run("verify", "--database", installation, "--evidence", file, **signing)
    checked = run("evidence", "check", file, "--key", public, key=None)

    assert (verified.exit_code, checked.exit_code) == (0, 0), verified.output + checked.output
    assert "Nothing was found" in words(verified.stdout)
    assert "never overwritten" in error_line(again)
    assert "does not prove that what they said is so" in words(checked.stdout)
    as_json = json.loads(run("evidence", "check", file, "--key", public, "--json", key=None).stdout)
    assert as_json["pack"]["report"]["is_clean"] is True
    file.write_bytes(file.read_bytes().replace(b'"found":0', b'"found":1', 1))
    assert "is refused" in error_line(run("evidence", "check", file, "--key", public, key=None))


@pytest.mark.parametrize("is_damaged", [False, True])
def test_check_says_in_a_sentence_what_the_pack_says_was_found(
    tmp_path: Path, installation: str, is_damaged: bool
):
    import sqlite3

    path, public = keys_in(tmp_path)
    if is_damaged:
        with contextlib.closing(sqlite3.connect(tmp_path / "memory.db")) as connection, connection:
            connection.execute("UPDATE records SET size = 1")
    file = tmp_path / "report.json"
    run(
        *("verify", "--read-only", "--database", installation, "--evidence", file),
        LANGMEM_ISOLATED_EVIDENCE_KEY_FILE=str(path),
    )

    checked = run("evidence", "check", file, "--key", public, key=None)

    assert checked.exit_code == 0
    assert ("and nothing was found." in words(checked.stdout)) is not is_damaged
    assert bool(re.search(r"and [1-9]\d* findings\.", words(checked.stdout))) is is_damaged


def test_a_path_that_is_mistyped_is_not_told_as_a_pack_that_was_changed(tmp_path: Path):
    _, public = keys_in(tmp_path)

    file = tmp_path / "reprot.json"
    missing = run("evidence", "check", file, "--key", public, key=None, COLUMNS="400")

    assert missing.exit_code == 2
    assert "reprot.json cannot be read: No such file" in words(missing.stderr)
    assert "believed" not in missing.stderr


@pytest.mark.parametrize("place", ["taken.json", "no folder/report.json"])
def test_a_place_where_no_pack_can_be_written_is_told_before_anything_is_verified(
    tmp_path: Path, place: str
):
    path, _ = keys_in(tmp_path)
    (tmp_path / "taken.json").write_text("a report of last month")

    refused = run(
        *("verify", "--database", f"sqlite:///{tmp_path}/none.db"),
        *("--evidence", tmp_path / place),
        LANGMEM_ISOLATED_EVIDENCE_KEY_FILE=str(path),
    )

    assert refused.exit_code == 1
    assert "file for the evidence pack cannot be made" in error_line(refused)


def test_what_was_found_is_told_and_the_status_is_1(tmp_path: Path, installation: str):
    import sqlite3

    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("UPDATE records SET size = 1")
    connection.close()

    shown = run("verify", "--database", installation, "--read-only")
    as_json = run("verify", "--database", installation, "--read-only", "--json", "--user", "alice")

    assert (shown.exit_code, as_json.exit_code) == (1, 1)
    assert "its size is another" in words(shown.stdout)
    assert "Not checked: canaries" in words(shown.stdout)
    found = json.loads(as_json.stdout)
    assert (found["subject"], found["is_clean"], found["found"]) == ("user", False, 1)


def test_a_sample_says_what_it_proves(tmp_path: Path, installation: str):
    with IsolatedMemory(installation, root_key=LocalRootKey(bytes(range(32)))) as memory:
        for number in range(5):
            memory.scope(user_id=str(number), module_id="m").chat_history("s").add_user_message("x")

    shown = run("verify", "--database", installation, "--read-only", "--sample", 3)

    assert "A sample of 3 of 6 scopes" in words(shown.stdout)
    assert "at 95% confidence" in words(shown.stdout)


def test_without_a_key_nothing_is_verified_for_a_report(tmp_path: Path, installation: str):
    refused = run("verify", "--database", installation, "--evidence", tmp_path / "report.json")

    assert "No evidence key" in error_line(refused)
    assert not (tmp_path / "report.json").exists()
