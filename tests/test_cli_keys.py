"""`keys`: operators rotate sealing keys, and see what is pending."""

import json

import pytest

from langmem_isolated import IsolatedMemory
from tests.conftest import Attacker
from tests.test_cli import run


@pytest.fixture
def told(memory: IsolatedMemory, database_url: str) -> list[str]:
    for user in ("alice", "bob"):
        history = memory.scope(user_id=user, module_id="tutor").chat_history("s")
        history.add_user_message(f"of {user}")
    return ["--database", database_url]


def test_one_users_keys_are_rotated(told: list[str], attacker: Attacker):
    done = run("keys", "rotate", "--user", "alice", *told)

    assert done.exit_code == 0
    assert "1 keys were made, 2 records sealed anew, 1 former keys destroyed." in done.stdout
    states = attacker("SELECT state FROM keys WHERE purpose = 3 ORDER BY 1")
    assert states == [(1,), (1,), (3,)]


@pytest.mark.parametrize("command", [["keys", "rotate"], ["keys", "status"]])
def test_a_user_who_is_not_there_is_told_and_not_taken_for_done(
    told: list[str], command: list[str]
):
    done = run(*command, "--user", "alise", *told)

    assert done.exit_code == 0
    assert done.stdout == (
        "This user has no keys here: nothing is stored, or it is in another --project.\n"
    )


def test_all_keys_are_rotated_and_a_rotation_that_ends_early_says_so(told: list[str]):
    early = run("keys", "rotate", "--all", "--max-seconds", "0", "--json", *told)
    assert early.exit_code == 3
    assert json.loads(early.stdout)["is_done"] is False
    pending = run("keys", "status", *told)
    assert "rotation of all since" in pending.stdout
    doctor = json.loads(run("doctor", "--json", *told).stdout)
    (finding,) = [one for one in doctor if "key rotation" in one["check"]]
    assert finding["state"] == "warn"

    done = run("keys", "rotate", "--all", "--json", *told)

    assert done.exit_code == 0
    assert json.loads(done.stdout)["keys_destroyed"] == 2
    assert json.loads(run("keys", "status", "--json", *told).stdout)["pending"] == 0
    doctor = json.loads(run("doctor", "--json", *told).stdout)
    (finding,) = [one for one in doctor if "key rotation" in one["check"]]
    assert finding["state"] == "ok"


def test_what_was_tampered_with_is_told_and_gives_status_1(told: list[str], attacker: Attacker):
    attacker("UPDATE records SET parent = ? WHERE kind = 3", b"\0" * 16)

    done = run("keys", "rotate", "--user", "bob", *told)

    assert done.exit_code == 1
    assert "1 records were tampered with" in done.stdout


def test_status_of_a_user_names_modules_and_versions(told: list[str]):
    run("keys", "rotate", "--user", "alice", *told)

    shown = run("keys", "status", "--user", "alice", *told).stdout
    told_json = json.loads(run("keys", "status", "--user", "alice", "--json", *told).stdout)

    assert "destroyed" in shown
    assert "tutor" in shown
    assert [key["state"] for key in told_json["keys"]] == ["destroyed", "active"]
    assert told_json["scopes"][0]["records"] == {"2": 2}


def test_neither_and_both_of_user_and_all_are_refused(told: list[str]):
    for given in ((), ("--user", "alice", "--all")):
        refused = run("keys", "rotate", *given, *told)
        assert refused.exit_code == 2
        assert "Give --user or --all" in refused.stderr


def test_verify_tells_that_a_user_is_not_there(told: list[str]):
    nobody = run("verify", "--user", "alise", "--read-only", *told)
    somebody = run("verify", "--user", "alice", "--read-only", *told)

    assert "This user has no memory here" in nobody.stdout
    assert "This user has no memory here" not in somebody.stdout
