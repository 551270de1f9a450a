"""Profile files of personas, as applications keep them, become profiles."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import ForeignProfile, Rejected
from langmem_isolated.importers.application.profiles import ProfileFilesSource

ANN = {
    "facts": [
        "Has a test on Friday.",
        {"text": "Plays chess.", "source": "chat", "timestamp": "2026-03-01T10:00:00Z"},
    ],
    "interests": ["chess", "späť"],
    "summary": "A pupil.",
    "level": 3,
    "style": {"tone": "kind"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two personas, the older layout beside them, and what an application makes of both."""
    files = {
        "tutor/user_ann.json": json.dumps(ANN),
        "tutor/user_bob@example.org.json": json.dumps({"interests": {"go": 4, "tea": 1}}),
        "tutor/user_index.json": "not read",
        "tutor/index_cache/user_ann.json": "not read",
        "tutor/vectors.npy": "not read",
        "coach/user_ann.json": json.dumps({"facts": ["Runs on Sundays."]}),
        "coach/user_cyd.json": '{"facts": ["the secret of cyd"',
        "user_old.json": json.dumps({"facts": ["Came before personas."]}),
    }
    for name, text in files.items():
        path = tmp_path / "profiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "profiles"


def units(folder: Path, **options: object) -> list[ForeignProfile | Rejected]:
    with ProfileFilesSource(str(folder), **options) as source:
        return list(source.units())


def test_facts_interests_summary_and_all_else_of_a_file_come_with_its_persona_as_module(folder):
    ann = next(one for one in units(folder) if one.place.startswith("tutor"))

    assert ann.fields == {"user": "ann", "module": "tutor"}
    assert [(fact.text, fact.source, fact.time) for fact in ann.facts] == [
        ("Has a test on Friday.", "import", None),
        ("Plays chess.", "chat", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ]
    assert (list(ann.interests), ann.summary) == (["chess", "späť"], "A pupil.")
    assert ann.attributes == {"level": 3, "style": {"tone": "kind"}}


def test_personas_the_older_layout_and_no_cache_are_read_in_one_order(folder):
    found = units(folder)

    assert found == units(folder)
    assert [one.fields.get("user") if isinstance(one, ForeignProfile) else None for one in found] \
        == ["ann", None, "old", "ann", "bob@example.org"]  # fmt: skip
    assert [one.place.partition(",")[0] for one in found] == [
        *("coach", "coach", "default", "tutor", "tutor"),
    ]


def test_how_often_an_interest_was_mentioned_stays_beside_its_name(folder):
    bob = units(folder, persona=["tutor"])[-1]

    assert (bob.interests, bob.attributes) == (["go", "tea"], {"interests": {"go": 4, "tea": 1}})


def test_a_broken_file_is_told_by_its_place_without_its_content_or_user(folder):
    [broken] = [one for one in units(folder) if isinstance(one, Rejected)]

    assert broken.place == "coach, file 2 by name"
    assert "no JSON at character 30" in broken.reason
    assert not any(word in repr(broken) for word in ("cyd", "secret"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "JSON that is no object, but list"),
        ('{"facts": {"a": 1}}', "facts that are no list, but dict"),
        ('{"facts": ["fine", 5]}', "fact 2 is neither text nor has one: int"),
        ('{"interests": [null]}', "an interest that is neither text nor has a name: NoneType"),
        ('{"facts": [{"text": "a", "time": "soon"}]}', "a time that is no ISO 8601"),
        ('{"level": NaN}', "no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("\udcff", "no JSON"),
        ("1" * 5000, "no JSON"),
    ],
)
def test_what_a_file_may_hold_besides_is_refused_by_its_kind(tmp_path, content, reason):
    (tmp_path / "user_eve.json").write_bytes(content.encode(errors="surrogateescape"))

    [rejected] = units(tmp_path)

    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason


def test_no_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "user_eve.json").symlink_to(tmp_path / "elsewhere")

    [rejected] = units(tmp_path / "profiles")

    assert "a link" in rejected.reason


def test_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "user_eve.json")

    [rejected] = units(tmp_path)

    assert "a pipe" in rejected.reason


def test_an_older_file_does_not_go_over_the_one_of_its_persona(tmp_path):
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "user_ann.json").write_text('{"level": 2}')
    (tmp_path / "user_ann.json").write_text('{"level": 1}')

    newer, older = units(tmp_path)

    assert newer.attributes == {"level": 2}
    assert isinstance(older, Rejected)


def test_personas_can_be_chosen(folder):
    chosen = units(folder, persona=["coach", "default"])

    assert {one.place.partition(",")[0] for one in chosen} == {"coach", "default"}
    with pytest.raises(SourceRefused, match="no persona of 6 characters"):
        units(folder, persona=["pirate"])


def test_a_folder_without_profiles_is_refused(tmp_path):
    with pytest.raises(SourceRefused, match="no profile in it"):
        ProfileFilesSource(str(tmp_path))


def test_reading_changes_nothing(folder):
    def digest() -> str:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return hashlib.sha256(
            b"".join(p.name.encode() + p.read_bytes() + str(p.stat().st_mtime_ns).encode()
                     for p in paths)
        ).hexdigest()  # fmt: skip

    before = digest()
    units(folder)

    assert digest() == before
