"""A page in a real browser, from the first click to the analysis."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from seaalign.listening import analyse_listening, build_listening_test, load_words, read_key, read_manifests
from tests.listening.test_build import write_systems

pytestmark = pytest.mark.audio
SCORES = {"recordings": 5, "dgsa": 4, "sft": 2}
FASTER = """const play = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = function () { this.playbackRate = 8; return play.call(this); };"""


@pytest.fixture(scope="module")
def chromium():
    sync = pytest.importorskip("playwright.sync_api", reason='playwright is missing: pip install "seaalign[dev]"')
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: install chromium to test pages")
    with sync.sync_playwright() as playwright:

        def open_(profile, **more):
            return playwright.chromium.launch_persistent_context(
                str(profile), executable_path=path, args=["--mute-audio"], accept_downloads=True, **more
            )

        yield open_


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listening")
    clips = read_manifests(write_systems(folder / "in", seconds=0.3))
    with pytest.warns(UserWarning, match="shorter than 3"):
        return build_listening_test(
            clips, folder / "test", ("nmos", "smos", "ab"), raters=2, texts=2, screening=1, language="lo", seed=3
        )


class Rater:
    """Someone at a page, with an eye on everything that goes wrong there."""

    def __init__(self, context, page, key, rater):
        self.tab = context.pages[0] if context.pages else context.new_page()
        self.faults, self.asked = [], []
        self.tab.add_init_script(FASTER)
        self.tab.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url.split(":")[0]))
        self.trials = key["raters"][rater]["trials"]
        self.clips = key["clips"]
        self.tab.goto(page.as_uri())

    def choice(self, number):
        """What the key says is there, judged as planted."""
        trial = self.trials[number]
        names = [self.clips[i]["system"] for i in trial["clips"]]
        if trial["test"] == "ab":
            side = {"high": 0, "low": 1}.get(trial["role"])
            side = side if side is not None else max((0, 1), key=lambda i: SCORES[names[i]])
            return "12"[side]
        return "1" if trial["role"] == "low" else str(SCORES[names[0]])

    def place(self):
        return int(re.findall(r"\d+", self.tab.inner_text("#count"))[0]) - 1

    def judge_by_keyboard(self):
        """Play what there is by the space key or Enter, choose by a digit, go on by Enter."""
        keys, number = self.tab.keyboard, self.place()
        for i, _ in enumerate(self.tab.query_selector_all(".player")):
            keys.press("Enter")  # the first button has the focus
            self.tab.wait_for_function(
                "n => document.querySelectorAll('.player')[n].querySelector('.heard').textContent", arg=i
            )
            keys.press("Tab")
        keys.press(self.choice(number))
        keys.press("Enter")

    def judge_by_mouse(self):
        number = self.place()
        for i, button in enumerate(self.tab.query_selector_all(".player")):
            button.click()
            self.tab.wait_for_function(
                "n => document.querySelectorAll('.player')[n].querySelector('.heard').textContent", arg=i
            )
        self.tab.click(f".option:has(input[data-key='{self.choice(number)}'])")
        self.tab.click("#next")

    def until(self, number, judge):
        while not self.tab.is_visible("#end"):
            if self.tab.is_visible("#part"):
                self.tab.keyboard.press("Enter")  # its button has the focus
            elif self.place() >= number:
                return
            else:
                judge()

    def download(self, button, path):
        with self.tab.expect_download() as waiting:
            self.tab.click(button)
        waiting.value.save_as(path)
        return waiting.value.suggested_filename


@pytest.mark.slow
def test_from_the_page_to_the_analysis(tmp_path, chromium, built):
    key, words = read_key(built.folder), load_words("lo")
    total = sum(built.trials.values())
    context = chromium(tmp_path / "profile")
    one = Rater(context, built.pages[0], key, "01")
    assert one.tab.get_attribute("html", "lang") == "lo"
    assert one.tab.is_disabled("#start")
    for key_ in ("Tab", "Tab", "Space", "Tab", "Space", "Tab", "Enter"):  # test sound, ready, consent, start
        one.tab.keyboard.press(key_)
    assert one.tab.inner_text("#part-title") == words["nmos"]["title"]
    one.tab.keyboard.press("Enter")

    # nothing can be chosen before the clip was heard
    one.tab.keyboard.press("3")
    assert one.tab.is_disabled("#options input") and one.tab.is_disabled("#next")
    assert one.tab.query_selector("input[name=answer]:checked") is None
    # screen readers: what is played, what is asked, and each grade by name
    assert one.tab.get_by_role("button", name=f"{words['play']}: {words['clip']}").count() == 1
    assert one.tab.get_by_role("group", name=words["nmos"]["question"]).count() == 1
    for grade, text in zip("54321", words["nmos"]["scale"], strict=True):
        assert one.tab.get_by_role("radio", name=f"{grade} {text}").count() == 1
    assert one.tab.get_by_role("progressbar", name=words["count"].format(i=1, n=total)).count() == 1

    one.until(total // 2, one.judge_by_keyboard)
    assert one.download("#save", tmp_path / "part.json").endswith("-rater-01-part.json")
    faults, asked = list(one.faults), list(one.asked)
    context.close()

    # the browser was closed: it goes on where it was
    context = chromium(tmp_path / "profile")
    one = Rater(context, built.pages[0], key, "01")
    assert one.place() == total // 2
    one.until(total, one.judge_by_keyboard)
    one.tab.fill("#comment", "ດີ")
    assert one.download("#download", tmp_path / "one.json").endswith("-rater-01.json")
    faults += one.faults
    asked += one.asked
    context.close()

    # another one, by mouse, on a phone, in a browser that forgets: goes on from a file
    context = chromium(tmp_path / "other", viewport={"width": 375, "height": 700})
    two = Rater(context, built.pages[1], key, "02")
    two.tab.set_input_files("#file", tmp_path / "part.json")
    two.tab.wait_for_selector("#notice:visible")
    assert two.tab.inner_text("#notice") == words["wrong_file"]
    two.tab.check("#ready")
    two.tab.check("#consent")
    two.tab.click("#start")
    two.until(5, two.judge_by_mouse)
    two.download("#save", tmp_path / "part2.json")
    two.tab.evaluate("localStorage.clear()")
    two.tab.reload()
    assert two.tab.is_visible("#intro")
    two.tab.set_input_files("#file", tmp_path / "part2.json")
    two.tab.wait_for_selector("#trial:visible")
    assert two.place() == 5
    two.until(total, two.judge_by_mouse)
    two.download("#download", tmp_path / "two.json")
    assert not two.tab.evaluate("document.documentElement.scrollWidth > innerWidth")
    faults += two.faults
    asked += two.asked
    context.close()

    assert faults == []
    assert set(asked) <= {"file", "data", "blob"}
    found = analyse_listening(
        built.folder, [tmp_path / "one.json", tmp_path / "two.json", tmp_path / "part.json"], draws=20
    )
    assert [r.reason.split(":")[0] for r in found.refused] == ["incomplete"]
    assert {(r["test"], r["system"]): r["mos"] for r in found.screened.scores} == {
        (test, system): score for test in ("nmos", "smos") for system, score in SCORES.items()
    }
    assert [(r["a"], r["b"], r["share"]) for r in found.screened.preferences] == [
        ("dgsa", "recordings", 0.0),
        ("dgsa", "sft", 1.0),
        ("recordings", "sft", 1.0),
    ]
    assert all(row["gold_right"] == row["gold"] == 6 for row in found.raters)
    assert found.comments == {"01": "ດີ"}
    told = json.loads((tmp_path / "one.json").read_text())
    assert all(a["plays"] >= 1 and a["seconds"] > 0 for a in told["answers"])


def test_a_browser_that_keeps_nothing_says_so(tmp_path, chromium, built):
    context = chromium(tmp_path / "profile")
    context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('off'); } });")
    rater = Rater(context, built.pages[0], read_key(built.folder), "01")
    assert rater.tab.inner_text("#notice") == load_words("lo")["no_storage"]
    context.close()
    assert rater.faults == []
