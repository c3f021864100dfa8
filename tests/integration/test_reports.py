"""Reports of real runs, opened in a browser: nothing asked for elsewhere, no errors, and outside text stays text."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from audioclf.config import ExtractConfig, ManifestConfig, ReportConfig, TagConfig
from audioclf.errors import ConfigError
from audioclf.pipelines import extract, manifest, report, tag

from .conftest import HOSTILE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium program here (make browser installs it)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def tagged(hostile_clips: Path, crossvalidated: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    checkpoint = f"{crossvalidated}/trainings/seed-0-fold-1/checkpoint"
    flags = {"time_regex": "audiomoth", "window_s": 0.25, "top_k": 2, "max_reject_fraction": 1.0}
    output = str(tmp_path_factory.mktemp("tagged") / "tags")
    assert tag.run(TagConfig(input=str(hostile_clips), checkpoint=checkpoint, output=output, **flags)) == "ok"
    return output


class Opened:
    """A page with what it logged and asked for."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: Any):
        self.page: Page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def require_good(self, file: Path) -> None:
        charts = self.page.locator(".chart:not([hidden])")
        assert charts.count() > 0
        for i in range(charts.count()):
            charts.nth(i).locator(".main-svg").first.wait_for(state="attached")
        assert self.said == []
        assert {url for url in self.asked if not url.startswith("data:")} == {file.as_uri()}
        overflow = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, "the page is wider than the screen"
        assert self.page.locator("img[src=x]").count() == 0
        assert self.page.title().startswith("audioclf")


def write(run: str, output: Path) -> Path:
    assert report.run(ReportConfig(run=run, output=str(output))) == "ok"
    return output


SCREENS = [(1400, "light"), (390, "dark")]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_an_extraction(browser: Browser, hostile_shards: str, tmp_path: Path, width: int, scheme: str) -> None:
    file = write(hostile_shards, tmp_path / "report.html")
    opened = Opened(browser, file, width, scheme)
    opened.require_good(file)
    page = opened.page
    said = page.inner_text("main")
    summary = json.loads(Path(hostile_shards, "summary.json").read_text())
    assert summary["total"]["clips"]["rejected"] == 1
    assert HOSTILE in said
    assert "DecodeError" in page.inner_text("table >> nth=1")
    assert "16,000 Hz" in said
    sounds = page.locator(".sounds figure")
    assert sounds.count() == 6 * 3, "six clips, each with its two copies"
    assert '"gain_db"' in said
    for i in (0, 1):  # the original, and a copy
        seconds = page.evaluate(
            """async (i) => {
                const audio = document.querySelectorAll("audio")[i];
                audio.muted = true;
                await audio.play();
                audio.pause();
                return audio.duration;
            }""",
            i,
        )
        assert seconds == pytest.approx(1.0, abs=0.15)  # MP3 pads to whole frames
        assert page.locator(".sounds img").nth(i).evaluate("image => image.naturalHeight") == 128


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_cross_validation(browser: Browser, crossvalidated: str, tmp_path: Path, width: int, scheme: str) -> None:
    file = write(crossvalidated, tmp_path / "report.html")
    opened = Opened(browser, file, width, scheme)
    opened.require_good(file)
    measured = json.loads(Path(crossvalidated, "metrics.json").read_text())
    facts = opened.page.inner_text("dl.facts >> nth=0")
    assert f"{measured['accuracy']:.1%}" in facts
    labels = opened.page.locator(".ytick text").all_text_contents()
    assert any("<b>low<∕b>" in label for label in labels), "a class that would be bold is written as it is"
    mistakes = round(sum(sum(row) for row in measured["confusion"]) - np.trace(measured["confusion"]))
    assert f"{mistakes} of 12 clips are taken for another class" in opened.page.inner_text("main")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_night_of_tags(browser: Browser, tagged: str, tmp_path: Path, width: int, scheme: str) -> None:
    file = write(tagged, tmp_path / "report.html")
    opened = Opened(browser, file, width, scheme)
    opened.require_good(file)
    page, count = opened.page, opened.page.locator(".count")
    (n_all,) = [int(words.split()[0]) for words in count.all_inner_texts()]
    assert count.inner_text() == f"{n_all} of {n_all} events, in 12 recordings"
    events = json.loads(page.locator(".explorer + script").text_content() or "")["events"]
    page.select_option("select[name=tag]", label="<b>low<∕b>")
    n_low = sum(event[1] == 0 for event in events)
    assert count.inner_text().startswith(f"{n_low} of {n_all} events")
    page.locator("input[name=least]").evaluate(
        "slider => { slider.value = 0.6; slider.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    n_sure = sum(event[1] == 0 and event[4] >= 0.6 for event in events)
    assert count.inner_text().startswith(f"{n_sure} of {n_all} events")
    assert {event[5] for event in events} == {10, 11, 12, 13, 14, 15}, "the hours of the names"
    assert page.locator("[data-role=day]").is_visible()
    assert HOSTILE in page.inner_text("main")
    (night,) = Path(tagged, "runs").iterdir()
    assert report.run(ReportConfig(run=str(night))) == "ok"
    assert (night / "report.html").exists()


def test_runs_in_which_all_was_rejected(crossvalidated: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "x").mkdir(parents=True)
    (tmp_path / "in" / "x" / "a.wav").write_bytes(b"no sound")
    listing, shards, output = (str(tmp_path / name) for name in ("m.parquet", "shards", "tags"))
    assert manifest.run(ManifestConfig(input=str(tmp_path / "in"), output=listing)) == "ok"
    assert extract.run(ExtractConfig(manifest=listing, output=shards, segment_s=1.0)) == "too_many_rejects"
    checkpoint = f"{crossvalidated}/trainings/seed-0-fold-1/checkpoint"
    tagging = TagConfig(input=str(tmp_path / "in"), checkpoint=checkpoint, output=output)
    assert tag.run(tagging) == "too_many_rejects"
    for run in (shards, output):
        html = write(run, tmp_path / "report.html").read_text()
        assert "DecodeError" in html
        assert "x/a.wav" in html


def test_what_is_no_run_is_named(tmp_path: Path, hostile_shards: str) -> None:
    with pytest.raises(ConfigError, match=r"not a run directory of a job: no config\.json"):
        report.run(ReportConfig(run=str(tmp_path)))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(hostile_shards, unfinished, ignore=shutil.ignore_patterns("summary.json", "_SUCCESS"))
    assert report.run(ReportConfig(run=str(unfinished))) == "ok"
    assert "The run has not ended" in (unfinished / "report.html").read_text()
