"""Time stamps of RFC 3161 on anchors, by a real authority: OpenSSL's, in this process."""

import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import AnchorFile, AuditOptions, IsolatedMemory, LocalRootKey
from langmem_isolated.errors import AnchorRefused
from langmem_isolated.lifecycle import Anchor, TimeStamps
from tests.command_line import error_line, run
from tests.conftest import ROOT_KEY

pytestmark = pytest.mark.system("openssl")

CONFIG = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[stamps]
extendedKeyUsage = critical, timeStamping
keyUsage = critical, digitalSignature
[tsa]
default_tsa = here
[here]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""


class Authority:
    """One that stamps whatever it is asked to, with certificates of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config").write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        new = ("req", "-config", "config", "-newkey", "rsa:2048", "-nodes", "-keyout")
        self._openssl(*new, "root.key", "-x509", "-subj", "/CN=root", "-extensions", "ca",
                      "-days", "2", "-out", "root.pem")  # fmt: skip
        self._openssl(*new, "tsa.key", "-subj", "/CN=tsa", "-out", "tsa.csr")
        self._openssl("x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key",
                      "-CAcreateserial", "-days", "2", "-extfile", "config",
                      "-extensions", "stamps", "-out", "tsa.pem")  # fmt: skip
        self.root = (folder / "root.pem").read_bytes()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def __call__(self, request: bytes) -> bytes:
        (self.folder / "request").write_bytes(request)
        self._openssl("ts", "-reply", "-config", "config", "-section", "here",
                      "-queryfile", "request", "-out", "reply")  # fmt: skip
        return (self.folder / "reply").read_bytes()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def address(authority: Authority) -> Iterator[str]:
    """Where the authority is reached by HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/timestamp-query"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(authority(asked))

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key, audit=AuditOptions()) as memory:
        yield memory


def stamped(memory: IsolatedMemory, authority: Any) -> Anchor:
    kept: list[Anchor] = []
    memory.audit.anchor(TimeStamps(authority, kept.append))
    return kept[0]


def test_an_anchor_is_stamped_and_verified(memory: IsolatedMemory, authority: Authority):
    anchor = stamped(memory, authority)
    stamps = TimeStamps(roots=[authority.root])

    assert abs(stamps.verify(anchor) - datetime.now(UTC)) < timedelta(minutes=5)
    checked = memory.audit.check_anchors([anchor], stamps=stamps)
    assert (checked.anchors, checked.stamped) == (1, 1)
    assert Anchor.decoded(anchor.encoded()) == anchor


def test_a_stamp_is_of_one_anchor_and_one_authority(
    memory: IsolatedMemory, authority: Authority, tmp_path: Path
):
    first, second = (stamped(memory, authority) for _ in range(2))
    stamps = TimeStamps(roots=[authority.root])

    with pytest.raises(AnchorRefused, match="does not verify"):
        stamps.verify(replace(first, stamp=second.stamp))
    with pytest.raises(AnchorRefused, match="does not verify"):
        TimeStamps(roots=[Authority(tmp_path).root]).verify(first)
    with pytest.raises(AnchorRefused, match="no time stamp"):
        stamps.verify(replace(first, stamp=None))
    with pytest.raises(AnchorRefused, match="no response"):
        stamps.verify(replace(first, stamp=b"nothing"))
    for roots in ([], [b"nothing"]):
        with pytest.raises(AnchorRefused):
            TimeStamps(roots=roots).verify(first)


def test_every_byte_of_a_stamp_counts_or_is_read_over(memory: IsolatedMemory, authority: Authority):
    anchor = stamped(memory, authority)
    stamps = TimeStamps(roots=[authority.root])
    moment, stamp = stamps.verify(anchor), anchor.stamp
    assert stamp is not None

    for at in range(0, len(stamp), 97):
        changed = bytearray(stamp)
        changed[at] ^= 0x40
        try:
            found = stamps.verify(replace(anchor, stamp=bytes(changed)))
        except AnchorRefused:
            continue
        # What stands beside what is signed, such as a certificate that is not needed.
        assert found == moment


def test_an_answer_that_is_no_stamp_keeps_nothing(memory: IsolatedMemory, authority: Authority):
    kept: list[Anchor] = []
    answers = []
    memory.audit.anchor(TimeStamps(lambda asked: answers.append(authority(asked)) or answers[0]))

    for answer in (b"", b"no", answers[0]):
        with pytest.raises(AnchorRefused, match="no time stamp"):
            memory.audit.anchor(TimeStamps(lambda _, told=answer: told, kept.append))

    def away(_: bytes) -> bytes:
        raise ConnectionRefusedError

    with pytest.raises(AnchorRefused, match="reached"):
        memory.audit.anchor(TimeStamps(away, kept.append))
    with pytest.raises(AnchorRefused, match="reached"):
        memory.audit.anchor(TimeStamps("http://127.0.0.1:1", kept.append))
    assert kept == []


def test_what_is_no_authority_is_refused():
    with pytest.raises(ValueError, match="https://"):
        TimeStamps("file:///etc/passwd")
    with pytest.raises(TypeError):
        TimeStamps(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        TimeStamps("https://tsa.example", "anchors.jsonl")  # type: ignore[arg-type]


def test_the_command_line_has_anchors_stamped_and_checks_them(
    sqlite_url: str, address: str, authority: Authority, tmp_path: Path
):
    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY), audit=AuditOptions()):
        pass
    file, root = tmp_path / "anchors.jsonl", authority.folder / "root.pem"

    taken = run("audit", "anchor", file, "--time-stamp", address, "--database", sqlite_url)

    assert taken.exit_code == 0, taken.output
    assert AnchorFile(file).read()[0].stamp
    told = run("anchor", "check", file, "--root", root, "--database", sqlite_url).stdout
    assert "1 have a time stamp that fits" in told
    run("audit", "anchor", file, "--database", sqlite_url)
    refused = run("anchor", "check", file, "--root", root, "--database", sqlite_url)
    assert "no time stamp" in error_line(refused)
    assert run("anchor", "check", file, "--root", tmp_path / "none",
               "--database", sqlite_url).exit_code == 2  # fmt: skip
