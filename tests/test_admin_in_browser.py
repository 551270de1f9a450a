"""The admin page in a real browser: sizes, colours, without scripts, by keyboard."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.admin import admin_app, standalone_app
from langmem_isolated.admin.operator.application import TABLE
from langmem_isolated.admin.operator.jobs import Jobs, Progress
from langmem_isolated.admin.operator.pages import Page as Shown
from tests.browsing import SIZES, serious_violations, serving
from tests.operators import tutor_of
from tests.test_admin_jobs import Work
from tests.test_statistics import asked, store_everything

pytestmark = pytest.mark.system("chromium")
TOKEN = "t" * 40
LOOKS = (("wide", "light"), ("narrow", "dark"))
OTHER_LOOKS = (("wide", "dark"), ("narrow", "light"))


@pytest.fixture(scope="module")
def memory() -> Iterator[IsolatedMemory]:
    """With something on every page."""
    with IsolatedMemory("sqlite://", root_key=LocalRootKey(bytes(32))) as memory:
        memory.audit.switch_on()
        scope = tutor_of(memory)
        store_everything(scope)
        scope.chat_history("monday").add_messages([asked(), asked(model="x" * 80)])
        scope.sessions.rename("monday", "Multiplication " * 8)
        scope.profile().add_facts(["Likes chess.", "Has a test. " * 30])
        scope.module("planner").chat_history("plans").add_user_message("Hi")
        memory.retention.keep("message", days=365)
        tutor_of(memory, "bob")
        memory.retention.hold("bob", reason="Case 12 " * 20, by="legal")
        tutor_of(memory, "zoe")
        memory.erase_user("zoe")
        yield memory


@pytest.fixture(scope="module")
def jobs() -> list[Jobs]:
    return []


@pytest.fixture(scope="module")
def address(memory: IsolatedMemory, jobs: list[Jobs]) -> Iterator[str]:
    app = admin_app(memory, authorize=lambda _: "carol")
    jobs.append(app.state.jobs)
    with serving(app) as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window in which nothing may be complained of."""
    page, complaints = browser.new_page(), list[str]()
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def look(page: Page, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")


def fits(page: Page) -> bool:
    """Whether nothing is beyond the right edge: what is wide scrolls by itself."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("name", [one.name for one in TABLE if isinstance(one, Shown)])
def test_every_page_opens_on_every_screen_and_shuts_nobody_out(
    page: Page, memory: IsolatedMemory, address: str, jobs: list[Jobs], name: str
):
    job = jobs[0].start("sweep", "carol", lambda _: {"counts": {"item": 1}, "is_done": True})
    (path,) = (one.path for one in TABLE if one.name == name)
    path = path.replace("{digest}", memory.user_digest("alice") or "").replace("{job}", job.id)
    page.goto(address + path)
    for details in page.query_selector_all("details:not([open]) > summary"):
        details.click()
    for size, scheme in LOOKS:
        look(page, size, scheme)
        assert serious_violations(page) == []
        assert fits(page)
    for size, scheme in OTHER_LOOKS:
        look(page, size, scheme)
        page.reload()
        assert fits(page)


def is_shown(page: Page, title: str) -> None:
    """Wait for a page: a click returns before it is there."""
    expect(page).to_have_title(re.compile(rf"^{re.escape(title)} ·"), timeout=60_000)
    page.wait_for_load_state()


def test_what_is_asked_and_read_shuts_nobody_out(page: Page, memory: IsolatedMemory, address: str):
    page.goto(f"{address}/users/{memory.user_digest('alice')}")
    page.fill("#glass-reason", "Ticket 12")
    page.click("text=Break the glass")
    is_shown(page, "Read what this user has?")
    assert serious_violations(page) == []
    page.click("text=Permit it")
    for button, title in (
        ("text=Read what modules know", "What modules know of one user"),
        ("text=Read Multiplication", "One session"),
    ):
        page.click(button)
        is_shown(page, title)
        for size, scheme in LOOKS:
            look(page, size, scheme)
            assert serious_violations(page) == []
            assert fits(page)
    assert page.is_visible("text=What is 6 times 7?")


def test_all_of_it_works_without_a_script(browser: Browser, memory: IsolatedMemory, address: str):
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"{address}/users")
    page.fill("#user_id", "alice")
    page.click("text=Find")
    page.click("text=Rotate keys")
    page.click("main button")
    while page.locator("text=How far is it now?").count():
        page.click("text=How far is it now?")

    assert "keys destroyed" in page.inner_text("main")
    assert page.url.startswith(f"{address}/jobs/")
    page.goto(address)
    page.click("text=Messages as a table")
    assert page.is_visible("details[open] table")
    page.close()


def test_a_running_job_is_refreshed_by_itself(
    browser: Browser, page: Page, address: str, jobs: list[Jobs]
):
    work = Work()

    def shown(progress: Progress) -> dict[str, bool]:
        return dict(work(progress))

    job = jobs[0].start("count", "carol", shown)
    page.goto(f"{address}/jobs/{job.id}")
    plain = browser.new_page(java_script_enabled=False)
    plain.goto(f"{address}/jobs/{job.id}")
    assert serious_violations(page) == []
    work.step.set()
    for one in (page, plain):
        one.wait_for_selector("text=Done at", timeout=30_000)

    assert page.locator("[hx-get]").count() == 0
    plain.close()


def test_a_keyboard_is_enough(page: Page, memory: IsolatedMemory, address: str):
    page.goto(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.goto(address)
    names = []
    for _ in range(10):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent"))
    assert names[1:] == page.locator("nav a").all_inner_texts()
    page.locator("nav a", has_text="Users").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/users")
    page.locator("#user_id").focus()
    page.keyboard.type("alice")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/users/[0-9a-f]{32}$"))
    assert page.url.endswith(str(memory.user_digest("alice")))


def test_a_browser_logs_in_with_the_token_and_out(browser: Browser, memory: IsolatedMemory):
    app = standalone_app(memory, token=TOKEN, allowed_hosts=["127.0.0.1"])
    with serving(app) as address:
        page = browser.new_page()
        assert (opened := page.goto(address))
        assert opened.status == 401
        assert serious_violations(page) == []
        page.fill("#token", TOKEN)
        page.click("button")
        assert page.title().startswith("Overview")
        page.click("text=Users")
        assert page.is_visible(f"text={memory.user_digest('alice')}")
        assert TOKEN not in page.content()
        page.click("text=Log out")
        assert page.is_visible("#token")
        page.go_back()
        page.reload()
        assert page.is_visible("#token")
        page.close()
