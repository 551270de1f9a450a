"""One's memory page in a browser: each page, without scripts, by keyboard, what is evil."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey
from langmem_isolated.admin import memory_app
from langmem_isolated.scope import Scope
from tests.browsing import SCHEMES, SIZES, serious_violations, serving
from tests.my_memory import SECRET, Person, client_of, remember, walked
from tests.test_my_memory_hostile import EVIL

pytestmark = pytest.mark.system("chromium")
PASSPHRASE = "correct horse battery"


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key, audit=AuditOptions()) as memory:
        remember(memory, "alice")
        yield memory


@pytest.fixture
def address(memory: IsolatedMemory) -> Iterator[str]:
    app = memory_app(memory, scope_of=lambda _: Scope("alice", "tutor"), secret=SECRET)
    with serving(app) as address:
        yield address


def complaints_of(page: Page) -> list[str]:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
    return said


def is_too_wide(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


def kinds_of_pages(person: Person) -> list[str]:
    """One page of each kind, the longest: that has all that such a page can have."""
    by_kind: dict[str, tuple[int, str]] = {}
    for path, answer in walked(person):
        kind = answer.text.partition("<title>")[2].partition("</title>")[0]
        by_kind[kind] = max(by_kind.get(kind, (0, "")), (len(answer.text), path))
    return [path for _, path in by_kind.values()]


def test_every_page_opens_narrow_and_wide_light_and_dark_and_is_accessible(
    browser: Browser, memory: IsolatedMemory, address: str
):
    paths = kinds_of_pages(Person(client_of(memory), "alice"))
    assert len(paths) >= 14
    for (width, height), scheme in zip(SIZES.values(), SCHEMES, strict=True):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
        complaints = complaints_of(page)
        for path in paths:
            page.goto(address + path)
            for details in page.locator("details").all():
                details.evaluate("one => one.open = true")
            assert (serious_violations(page), complaints, is_too_wide(page)) == ([], [], False), (
                path
            )
        page.close()


def test_what_is_stored_runs_nothing(browser: Browser, sqlite_url: str, root_key: LocalRootKey):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        remember(memory, "eve", EVIL + "w" * 120)
        app = memory_app(memory, scope_of=lambda _: Scope("eve", "tutor"), secret=SECRET)
        paths = kinds_of_pages(Person(client_of(memory), "eve"))
        with serving(app) as address:
            page = browser.new_page(viewport={"width": 360, "height": 740})
            complaints = complaints_of(page)
            for path in paths:
                page.goto(address + path)
                # Not even kept from it by the policy: there is none to be run.
                assert page.locator("img, script:not([src])").count() == 0
                assert (complaints, is_too_wide(page)) == ([], False), path
            page.close()


def test_everything_works_without_scripts(
    browser: Browser, memory: IsolatedMemory, address: str, tmp_path: Path
):
    context = browser.new_context(java_script_enabled=False, accept_downloads=True)
    page = context.new_page()
    scope = memory.scope(user_id="alice", module_id="tutor")
    page.goto(address)
    page.get_by_role("link", name="tutor").click()
    page.get_by_role("link", name="What is known").click()
    page.get_by_text("Correct it").click()
    page.get_by_label("What is true").fill("Likes Go.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Likes Go.").first).to_be_visible()
    page.get_by_role("button", name="Forget: Likes Go.").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_text("No facts.")).to_be_visible()

    page.get_by_role("link", name="Conversations").click()
    page.get_by_label("Search").fill("half")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="To the conversation").first.click()
    page.get_by_text("Rename, take along, delete").click()
    page.get_by_label("Title").fill("Halves")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="Halves")).to_be_visible()
    page.get_by_text("Rename, take along, delete").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as text (Markdown)").click()
    download.value.save_as(tmp_path / "conversation.md")
    assert "What is a half?" in (tmp_path / "conversation.md").read_text()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete it").click()
    assert scope.sessions() == []

    page.get_by_role("link", name="Download").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "my-memory.zip"
    page.get_by_role("link", name="Sharing").click()
    page.get_by_role("button", name="End…").click()
    page.get_by_role("button", name="End it").click()
    expect(page.get_by_text("Nothing is shared.")).to_be_visible()
    context.close()


def test_memory_is_locked_and_opened_and_forgotten_by_keyboard_alone(
    browser: Browser, memory: IsolatedMemory, address: str
):
    page = browser.new_page()
    complaints = complaints_of(page)

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            label = page.evaluate(
                "() => { const e = document.activeElement; return (e.labels && e.labels.length)"
                " ? e.labels[0].innerText : e.innerText }"
            )
            if name in (label or ""):
                return
        raise AssertionError(f"No Tab leads to {name}.")

    page.goto(f"{address}/lock")
    for label in ("8 characters or more", "Once more"):
        tab_to(label)
        page.keyboard.type(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Write this down")).to_be_visible()
    assert serious_violations(page) == []
    assert memory.lock_state("alice").is_locked

    page.goto(address)
    assert serious_violations(page) == []
    tab_to("Your passphrase")
    page.keyboard.type(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(page.get_by_text("15 more minutes")).to_be_visible()

    page.goto(f"{address}/forget")
    tab_to("To confirm")
    page.keyboard.type("forget everything about me")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="You are forgotten")).to_be_visible()
    assert serious_violations(page) == []
    assert memory.modules("alice") == []
    # The link over the navigation is the first that the keyboard meets.
    page.goto(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "To the content"
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert complaints == []
    page.close()
