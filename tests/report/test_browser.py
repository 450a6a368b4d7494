"""The page in a real browser: it fetches nothing, plays, sorts, keeps its secrets until asked, and can be printed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import EVIL, TEXTS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "seaalign[dev]"')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")

FAULTS = """() => {
    const all = (what) => [...document.querySelectorAll(what)], tag = (e) => e.outerHTML.slice(0, 80);
    const by = (e) => document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim();
    const named = (e) => e.getAttribute('aria-label') || e.textContent.trim() || by(e);
    const faults = all('svg, img').filter((e) => !e.getAttribute('aria-label') || e.getAttribute('role') !== 'img');
    faults.push(...all('button, a, [tabindex="0"], section, nav').filter((e) => !named(e)));
    faults.push(...all('table').filter((e) => !e.caption), ...all('th').filter((e) => !e.scope));
    const levels = all('h1, h2, h3, h4').map((e) => Number(e.tagName[1]));
    const jumps = levels.filter((level, i) => level > (levels[i - 1] || 0) + 1).map((level) => `a jump to h${level}`);
    const twice = ['main', 'header', 'nav', 'h1', 'html[lang]'].filter((what) => all(what).length !== 1);
    return [...faults.map(tag), ...jumps, ...twice];
}"""
CONTRAST = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const under = (e) => {
        const colour = parse(getComputedStyle(e).backgroundColor);
        return colour[3] === 0 ? e.parentElement ? under(e.parentElement) : [255, 255, 255] : colour;
    };
    const ratio = (e) => {
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(under(e))].sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05);
    };
    const text = 'p, a, li, h1, h2, h3, h4, th, td, button, figcaption, .kind, .spread, .file, kbd';
    return Math.min(...[...document.querySelectorAll(text)].filter((e) => e.getClientRects().length).map(ratio));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The page from disk; a complaint on its console or a request that leaves it fails the test."""
    page, complaints, requests = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]


def wait(page: Any, condition: str) -> None:
    """Until it is true; the page's own policy forbids what `wait_for_function` does."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{condition} did not come true in five seconds")


def names(page: Any) -> list[str]:
    return page.locator("table").first.locator("tbody th").all_inner_texts()


def test_the_policy_lets_no_request_out(browser, report):
    page, refused, left = browser.new_page(), [], []
    page.on("console", lambda message: refused.append(message.text))
    page.on("request", lambda request: left.append(request.url) if request.url.startswith("http") else None)
    page.goto(report.as_uri())
    done = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.pwned=2\">')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.pwned") is None  # neither a name from the data nor what is put in later is run
    page.close()
    assert done == "refused" and any("Content Security Policy" in text for text in refused) and left == []


def test_players_play_one_at_a_time(page):
    first, second = page.locator(".sentence").first.locator(".play").all()[:2]
    first.click()
    wait(page, "player.currentTime > 0.1")
    assert first.get_attribute("aria-pressed") == "true" and page.evaluate("player.duration") > 0.5
    was = page.evaluate("player.src.length")
    second.click()
    wait(page, "player.currentTime > 0.05")
    assert (first.get_attribute("aria-pressed"), second.get_attribute("aria-pressed")) == ("false", "true")
    assert was > 1000 and page.locator("audio:not([hidden])").count() == 0
    wait(page, "player.ended")
    assert second.get_attribute("aria-pressed") == "false"


def test_all_sounds_of_the_page_can_be_decoded(page):
    lengths = page.evaluate(
        """Promise.all([...document.querySelectorAll('.sentence audio')].map(audio => new Promise((done, fail) => {
            const probe = new Audio(audio.src);
            probe.onloadedmetadata = () => done(probe.duration);
            probe.onerror = () => fail(probe.error.message);
        })))"""
    )
    assert len(lengths) == 21 and all(0.55 < seconds < 0.85 for seconds in lengths)


def test_players_by_keyboard(page):
    page.locator(".sentence h4").first.focus()
    page.keyboard.press("2")
    wait(page, "player.currentTime > 0.05")
    assert page.evaluate("document.activeElement.textContent") == "B"
    page.keyboard.press("Space")
    wait(page, "player.paused")
    page.keyboard.press("Space")
    wait(page, "!player.paused")
    page.keyboard.press("ArrowDown")
    assert TEXTS and page.evaluate("document.activeElement.tagName") == "H4"
    assert page.locator(".sentence.here").evaluate("e => [...document.querySelectorAll('.sentence')].indexOf(e)") == 1
    page.keyboard.press("r")
    assert page.locator(".sentence.here .truth").first.is_visible()
    assert not page.locator(".sentence").first.locator(".truth").first.is_visible()


def test_blind_until_revealed(page):
    secret = re.compile(r"sft|dgsa|recordings|word errors")
    for sentence in page.locator(".sentence").all():
        assert not secret.search(sentence.inner_text()) and not secret.search(sentence.aria_snapshot())
    sentence = page.locator(".sentence").first
    sentence.get_by_role("button", name="Reveal").click()
    assert "dgsa (style on)" in sentence.inner_text() and f"{EVIL} (style off)" in sentence.inner_text()
    assert "recordings" in sentence.aria_snapshot() and "word errors" in sentence.inner_text()
    assert not secret.search(page.locator(".sentence").nth(1).inner_text())
    sentence.get_by_role("button", name="Reveal").click()
    assert not secret.search(sentence.inner_text())
    page.get_by_role("button", name="Reveal all").click()
    assert all("sft (style off)" in each.inner_text() for each in page.locator(".sentence").all())


def test_tables_sort_by_click_and_by_keyboard(page):
    head = page.locator("table").first.locator("thead th")
    wer = head.filter(has_text="WER %").first
    before = names(page)
    wer.get_by_role("button").click()
    assert wer.get_attribute("aria-sort") == "ascending" and names(page) == before[::-1]
    wer.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert wer.get_attribute("aria-sort") == "descending" and names(page) == before
    alpha = head.filter(has_text="alpha").first
    alpha.get_by_role("button").focus()
    page.keyboard.press("Space")
    assert alpha.get_attribute("aria-sort") == "ascending" and wer.get_attribute("aria-sort") == "none"
    assert names(page)[:4] == ["dgsa", "dgsa", "sft", "sft"]  # 0.2, 0.8, then what has none
    page.keyboard.press("Space")
    assert names(page)[:4] == ["sft", "sft", "dgsa", "dgsa"]
    assert page.locator("#said").inner_text() == "sorted by alpha, descending"


def test_everything_has_a_name_and_headings_descend(page):
    faults = page.evaluate(FAULTS)
    assert faults == []
    assert page.locator("svg").count() > 10


def test_focus_can_be_seen_and_reaches_the_content(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").evaluate("e => e.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page, scheme):
    """WCAG AA: 4.5 to 1 between text and what it stands on."""
    page.emulate_media(color_scheme=scheme)
    worst = page.evaluate(CONTRAST)
    assert worst >= 4.5


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_the_page_is_as_wide_as_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_print_has_all_tables_and_no_buttons(page):
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    for table in page.locator("table").all():
        assert table.is_visible()
        box = table.evaluate("e => [getComputedStyle(e.parentElement).overflowX, e.rows.length]")
        assert box[0] == "visible" and box[1] > 1
    assert not page.locator("nav").is_visible() and not page.locator(".reveal").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
