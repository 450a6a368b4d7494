"""The page from runs on disk: what it says, escapes, does without, and that it is the same each time."""

from __future__ import annotations

import base64
import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seaalign import cli
from seaalign.audio import load
from seaalign.evaluation import Evaluation, Result, Row, Score, write_evaluation
from seaalign.report import build_report
from seaalign.report import page as page_module
from seaalign.report.of_evaluation import _first, _point
from seaalign.report.of_log import read_log
from seaalign.report.page import names
from seaalign.report.players import inside, labels, listening
from seaalign.storage import write_json
from tests.report.conftest import EVIL, LOGGED, SYSTEMS, TEXTS, write_evaluated, write_log, write_rounds


class Reader(HTMLParser):
    """Tags with their attributes, in order, and whether each is closed where it should be."""

    VOID = {"meta", "link", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def tables(report: Path, name: str) -> list[dict[str, str]]:
    with open(report.parent / "tables" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_recordings_of_a_synthesiser_are_not_people():
    """They come without a style, as people's do, and are systems all the same: in players, contours and the plane."""
    names_ = ("recordings", "tts", "other")
    rows = [Row(name, "recordings", "p0", "hello", scores={}) for name in names_]
    assert list(_first(rows)["p0"]) == [*names_]
    points = [_point({"name": name, "style": "recordings", "wer": 9.0, "entropy": 8.0}, "wer") for name in names_]
    assert [point.kind for point in points] == ["recordings", "", ""]


def test_tags_nest_and_ids_are_unique(report):
    read = Reader(report.read_text())
    assert read.open == []
    ids = [attributes["id"] for _, attributes in read.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)) > 20
    text = report.read_text()
    links = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text)
    assert set(links) <= set(ids)


def test_nothing_from_data_becomes_markup(report):
    text = report.read_text()
    assert [tag for tag, _ in Reader(text).tags].count("script") == 1
    assert "<b>hello" not in text and "&lt;b&gt;hello&lt;/b&gt;" in text
    assert "<i>Thai" not in text and "<b>training" not in text and "length <b>" not in text
    svgs = [path.read_text() for path in (report.parent / "figures").glob("*.svg")]
    assert svgs and not any("<script" in svg for svg in svgs)
    assert any("&lt;script&gt;window" in svg and "$x_1$" not in svg.split("</title>")[0] for svg in svgs)


def test_no_address_is_in_it_but_the_namespaces(report):
    found = set(re.findall(r"https?://[^\"' <)]+", report.read_text()))
    assert found <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policies = [tag["content"] for name, tag in Reader(report.read_text()).tags if "http-equiv" in tag]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; script-src 'sha256-")


def test_tables_hold_the_numbers_of_the_runs(report):
    systems = tables(report, "evaluation-stability")
    lively = tables(report, "evaluation-expressivity")[1]
    assert (lively["name"], lively["entropy"], lively["f0_std"]) == ("sft", "9.1", "1.5")
    assert len(systems) == 1 + 2 * len(SYSTEMS) and systems[1]["name"] == "sft"
    assert (systems[1]["wer"], systems[1]["wer_low"], systems[1]["wer_high"]) == ("35.0", "33.0", "37.0")
    assert tables(report, "evaluation-comparisons")[0]["p_holm"] == "0.002"
    first, second = tables(report, "tdsc-iterations")
    assert (float(first["error"]), float(first["pass_rate"]), float(first["f0_std"])) == (40.0, 25.0, 0.4)
    assert float(second["error"]) == pytest.approx(20.0) and float(second["entropy"]) == 11.0  # out of round.json
    at = [
        (row["iteration"], float(row["temperature"]), float(row["pass_rate"]))
        for row in tables(report, "tdsc-temperatures")
    ]
    assert at == [("1", 0.7, 25.0), ("1", 1.0, 25.0), ("2", 0.7, 50.0), ("2", 1.0, 50.0)]
    funnel = tables(report, "tdsc-funnel")[1]
    assert (funnel["candidates"], funnel["accepted"], funnel["accepted %"]) == ("80", "40", "50.0")
    assert (funnel["intelligibility"], funnel["intelligibility %"], funnel["length <b>"]) == ("20", "25.0", "20")
    assert tables(report, "tdsc-texts")[0]["nothing accepted"] == "2"
    steps = tables(report, "log-checkpoints")
    assert [(row["step"], row["val/wer"], row["val/erosion/entropy_corrected"]) for row in steps] == [
        ("10", "50.0", "10.5"), ("20", "40.0", "10.2"),
    ]  # fmt: skip
    assert tables(report, "plan-sources")[1]["name"] == EVIL


def test_figures_lie_beside_the_page_as_svg_and_png(report):
    svg, png = ({path.stem for path in report.parent.glob(f"figures/*.{kind}")} for kind in ("svg", "png"))
    wanted = {"evaluation-plane", "evaluation-alpha-wer", "evaluation-alpha-entropy", "evaluation-f0-1", "tdsc-error"}
    wanted |= {
        "tdsc-entropy",
        "tdsc-pass-rate",
        "tdsc-f0-std",
        "tdsc-funnel",
        "log-plane",
        "log-01-loss",
        "plan-erosion",
    }
    assert svg == png and wanted <= svg
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.parent.glob("figures/*.png"))


def test_what_is_to_be_seen_is_said(report):
    text = report.read_text()
    assert f'<bdi lang="lo">{TEXTS[1]}</bdi>' in text
    assert "error % by iteration. It falls from 40.0 to 20.0." in text and "It rises from 25.0 to 50.0." in text
    assert "1 of 2 differences are significant at 5 % after Holm" in text
    assert "The entropy of the mixture peaks at alpha*" in text
    assert "Iteration 3 is not complete (1 waves of candidates are sampled)" in text


def test_same_runs_same_bytes(runs, report, tmp_path):
    again = build_report(runs, tmp_path, "Lao & <i>Thai</i>")
    for path in sorted(report.parent.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(report.parent)).read_bytes(), path.name
    before = again.read_bytes()
    assert build_report(runs, tmp_path, "Lao & <i>Thai</i>", seed=1).read_bytes() != before


def test_players_hold_the_sounds_in_an_order_that_the_seed_draws(runs, report, tmp_path):
    def orders(page: Path) -> list[list[str]]:
        found = re.findall(r'<span class="truth" hidden>(.*?), word errors', page.read_text())
        return [found[i : i + 7] for i in range(0, len(found), 7)]

    first = orders(report)
    assert len(first) == 3 and all(sorted(order) == sorted(first[0]) for order in first)
    assert len({tuple(order) for order in first}) == 3  # 1 in 5040 squared that two agree
    assert orders(build_report(runs[:1], tmp_path, seed=1)) != first
    kind, data = re.search(r'src="data:audio/(\w+);base64,([^"]+)"', report.read_text()).groups()
    (tmp_path / f"clip.{kind}").write_bytes(base64.b64decode(data))
    wave, rate = load(tmp_path / f"clip.{kind}")
    assert rate == 8000 and 0.6 <= len(wave) / rate < 0.8 and wave.abs().max() > 0.2


@pytest.mark.parametrize(("most", "limit", "why"), [(2, 10**9, "--sentences 2"), (9, 40_000, "the size of the page")])
def test_only_so_many_sentences_fit_and_the_page_says_so(tmp_path, most, limit, why):
    folder = write_evaluated(tmp_path / "run")
    files = {f"p{i}": (text, {"a": (folder / f"audio/1/off/{i}-0.wav", "a")}) for i, text in enumerate(TEXTS)}
    size = len(listening(files, 1, 10**9, 0, []).sentences[0].clips[0].uri)
    heard = listening(files, most, 2 * size + 10 if limit == 40_000 else limit, 0, [])
    assert (len(heard.sentences), heard.total, heard.why) == (2, 3, why)


def test_a_page_that_grows_too_large_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "LIMIT", 1000)
    with pytest.raises(ValueError, match=r"the page would take .* MB"):
        build_report(runs[3:], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_without_sound_says_so(tmp_path):
    text = build_report([write_evaluated(tmp_path / "run", sound=False)], tmp_path / "out").read_text()
    assert "kept no sounds, so there is nothing to hear" in text and "<audio" not in text


def test_sounds_that_are_gone_or_outside_are_left_out(tmp_path):
    folder = write_evaluated(tmp_path / "run")
    (folder / "audio" / "1" / "off" / "0-0.wav").unlink()
    (folder / "audio" / "2" / "on" / "1-0.wav").write_bytes(b"RIFF")
    text = build_report([folder], tmp_path / "out").read_text()
    assert "sft (style off) cannot be heard saying p0: no audio file at" in text
    assert "sft (style on) cannot be heard saying p1" in text and "nothing to hear" not in text
    assert (
        inside(folder, "../secret.wav") is None and inside(folder, "/etc/passwd") is None and inside(folder, "") is None
    )


def test_an_evaluation_that_has_not_ended(tmp_path):
    folder = write_evaluated(tmp_path / "run")
    (folder / "evaluation.json").unlink()
    (folder / "utterances.parquet").rename(folder / "parts")  # what is done so far; the rest comes with the numbers
    assert "The evaluation has not ended" in build_report([folder], tmp_path / "out").read_text()


def test_a_log_with_a_loss_alone_and_one_with_nothing(tmp_path):
    log = write_log(tmp_path / "log", [{"step": i, "epoch": 0, "train/loss": 3.0 - i} for i in range(3)])
    text = build_report([log], tmp_path / "out").read_text()
    assert "The log holds no error rate (val/wer) and no H_p (ErosionMonitor)" in text
    assert "Erosion was not watched in this run" in text and "loss. It falls from 3 to 1." in text
    empty = write_log(tmp_path / "empty", [{"step": 1, "epoch": 0}])
    assert "holds no loss, reward, error rate or erosion" in build_report([empty], tmp_path / "out").read_text()


def test_self_critique_that_was_killed_at_once(tmp_path):
    folder = write_rounds(tmp_path / "run")
    shutil.rmtree(folder / "round-01"), shutil.rmtree(folder / "round-02")
    (folder / "dashboard.json").unlink()
    text = build_report([folder], tmp_path / "out").read_text()
    assert "No iteration is complete" in text and "No candidate was judged yet" in text


def test_the_newest_version_of_a_log_is_taken(tmp_path):
    for version, rows in ((2, LOGGED[:1]), (10, LOGGED)):
        write_log(tmp_path / "logs" / f"version_{version}", rows)
    text = build_report([tmp_path / "logs"], tmp_path / "out").read_text()
    assert "version_10/metrics.csv" in text and "1 older version lies beside this one" in text


def test_a_log_that_was_cut_in_the_middle_of_a_line(tmp_path):
    path = write_log(tmp_path, LOGGED) / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-9] + b"\0\0\xff")
    found = read_log(path)
    assert found["val/loss"] == {9: 2.6} and "<main" in build_report([tmp_path], tmp_path / "out").read_text()


def test_read_log_keeps_what_was_logged(tmp_path):
    found = read_log(write_log(tmp_path, LOGGED) / "metrics.csv")
    assert found["val/wer"] == {9: 50.0, 19: 40.0} and found["train/loss"] == {9: 2.5, 19: 1.5}
    assert found["val/erosion/f0_std"] == {10: 1.5, 20: 1.1} and "epoch" not in found


def test_command(runs, tmp_path, capsys):
    assert cli.main(["report", *map(str, runs), "--out", str(tmp_path), "--sentences", "1", "--title", "One"]) == 0
    assert re.fullmatch(r"wrote .*report\.html \(\d\.\d MB\), .*tables and .*figures\n", capsys.readouterr().out)
    assert "<h1>One</h1>" in (tmp_path / "report.html").read_text()
    assert (
        "1 of 3 sentences are in this page (what left out the others: --sentences 1)"
        in (tmp_path / "report.html").read_text()
    )


@pytest.mark.parametrize("kind", ["nothing", "empty", "damaged"])
def test_what_is_no_run_is_told_in_one_line(tmp_path, capsys, kind):
    run = tmp_path / "run"
    if kind != "nothing":
        run.mkdir()
    if kind == "damaged":
        (run / "plan.json").write_text("{")
    assert cli.main(["report", str(run), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    wanted = {"nothing": "there is no", "empty": "Looked for: evaluation.json", "damaged": "plan.json is no JSON"}[kind]
    assert wanted in said and "Traceback" not in said and not (tmp_path / "out").exists()


def test_an_old_report_is_replaced_and_something_else_is_not(runs, tmp_path):
    build_report(runs[3:], tmp_path)
    build_report(runs[1:2], tmp_path)
    assert not list(tmp_path.glob("*/plan-*")) and list(tmp_path.glob("tables/tdsc-*.csv"))
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match="would be lost"):
        build_report(runs[3:], tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_two_runs_of_one_name(tmp_path):
    runs = [write_rounds(tmp_path / side / "tdsc") for side in ("a", "b")]
    build_report(runs, tmp_path / "out")
    assert {p.name for p in tmp_path.glob("out/tables/*iterations.csv")} == {
        "tdsc-iterations.csv",
        "tdsc-2-iterations.csv",
    }


def test_names_are_never_the_same():
    assert names([Path("x/a-2"), Path("y/a"), Path("z/a"), Path("a")]) == ["a-2", "a", "a-3", "a-4"]
    assert names([Path("ລາວ"), Path("/")]) == ["run", "run-2"]


def test_two_kinds_in_one_folder_are_two_chapters(tmp_path):
    write_log(write_evaluated(tmp_path / "run", sound=False), LOGGED)
    text = build_report([tmp_path / "run"], tmp_path / "out").read_text()
    assert "run-evaluation <span" in text and "run-log <span" in text
    planes = {path.name for path in tmp_path.glob("out/figures/*plane.svg")}
    assert planes == {"run-evaluation-plane.svg", "run-log-plane.svg"}
    assert "Several systems have the same share" not in text


def test_systems_of_one_share_are_not_joined_to_a_curve(tmp_path):
    scores = {"wer": Score(30.0), "entropy": Score(9.0)}
    results = [Result(name, "off", scores, 1, alpha) for name, alpha in (("sft", 0.8), ("dgsa", 0.8), ("real", 0.0))]
    write_evaluation(tmp_path / "run", Evaluation({}, results))
    text = build_report([tmp_path / "run"], tmp_path / "out").read_text()
    assert "Several systems have the same share" in text and "It: 30 to 30." in text
    assert "compares no systems" in text and "No sentence has a pitch contour" in text


def test_labels_are_all_different():
    assert len(set(labels(200))) == 200


def test_where_filtered_speech_went(tmp_path):
    def cell(count):
        return {"count": count, "percent": 10.0 * count}

    stages = {
        "in": cell(10),
        "readable": cell(10),
        "duration": cell(8),
        "loops": cell(7),
        "error": None,
        "kept": cell(7),
    }
    sides = {"tokens": {"before": 900, "after": 600}, "entropy": {"before": 8.5, "after": 8.625}}
    sides |= {"repetition": {"before": 0.05, "after": 0.01}, "error_rate": {"before": None, "after": None}}
    told = {"kind": "filter", "rows": [{"source": EVIL, "stages": stages, **sides}], "notes": ["nobody listened"]}
    write_json(tmp_path / "run" / "funnel.json", told)
    text = build_report([tmp_path / "run"], tmp_path / "out").read_text()
    (row,) = tables(tmp_path / "out" / "report.html", "run-filter")
    assert [row[key] for key in ("in", "duration", "loops", "kept", "kept %")] == ["10", "8", "7", "7", "70.0"]
    assert (row["entropy after"], float(row["repetition after"])) == ("8.625", 1.0) and "error" not in row
    assert "nobody listened" in text and "70 % accepted" in text
