"""The report in a browser: what a person sees, clicks and prints. Screenshots of it are kept in
`artifact_report/screenshots/`."""

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builders import written
from tests.support.runs import BASE, PAIRS, QUICK, ROOT, run_checks

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium isn't installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium and chromedriver to open the report with"
    ),
]
SCREENSHOTS = ROOT / "artifact_report" / "screenshots"
EVIL = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
LONG = "unbroken" * 60


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything fails, with prompts that would like to be code."""
    content = json.loads(PAIRS.read_text(encoding="utf-8"))
    for body in content["alignment_artifact_prompt_pairs"]["categories"].values():
        del body["pairs"][3:]
        for condition in ("natural", "artifact"):
            body["pairs"][0][condition] += f" {EVIL} \x1b[31m"
            body["pairs"][1][condition] += f" </style>{EVIL} {LONG}"
    folder = tmp_path_factory.mktemp("browser")
    pairs = written(folder / "pairs.json", content)
    # So that d passes, and the list of checks has rows of both kinds.
    quick = (*QUICK, "--d-threshold", "-9")
    return run_checks(folder, "--model", BASE, "--pairs", pairs, *quick).folder / "report.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def page(driver, report) -> "webdriver.Chrome":
    """The report, just opened on a laptop."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    driver.set_window_size(1400, 1000)
    driver.get(report.as_uri())
    return driver


def visible(page, selector):
    found = page.find_elements("css selector", selector)
    return [element for element in found if element.is_displayed()]


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    shown = page.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shown["data"]))


FAINT = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (element) => {
  let behind = element, paper;
  do {
    paper = behind ? rgb(getComputedStyle(behind).backgroundColor) : [255, 255, 255];
    behind = behind?.parentElement;
  } while (paper[3] === 0);
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(paper)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
  && [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim()));
return [texts.length, texts.filter((e) => contrast(e) < 4.5).map((e) => e.textContent)];
"""  # The contrast that WCAG 2.2 asks of text, 4.5 to 1.


def test_opens_quickly_and_without_an_error(page):
    screenshot(page, "1400")
    assert [entry for entry in page.get_log("browser") if entry["level"] != "INFO"] == []
    timing = page.execute_script("return performance.getEntriesByType('navigation')[0].toJSON()")
    assert timing["loadEventEnd"] < 5000, "a page that takes seconds, even on a busy machine"
    assert page.title == "Alignment artifacts"
    images = "[...document.images].filter((i) => i.getAttribute('src') && !i.naturalWidth)"
    assert page.execute_script(f"return {images}.length") == 0


def test_verdict_is_on_the_first_screen(page):
    (verdict,) = visible(page, ".verdict")
    assert verdict.text.startswith("✗ 0 of 8 layers separate")
    assert verdict.location["y"] + verdict.size["height"] < 400


def test_nothing_in_a_prompt_runs(page):
    page.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    shown = page.find_element("css selector", ".responses").text
    assert shown.count(EVIL) == 20
    time.sleep(0.2)
    assert page.title == "Alignment artifacts"


@pytest.mark.parametrize("width", [1400, 800])
def test_fits_the_window(page, width):
    page.set_window_size(width, 1000)
    page.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    screenshot(page, f"{width}-open")
    wide = page.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_a_failed_row_shows_its_figure_and_says_why(page):
    (row, *_) = visible(page, ".results-table-row .log")
    assert "d = " in row.text
    figures = visible(page, ".media-container__viewport img")
    assert figures
    assert page.execute_script("return arguments[0].naturalWidth", figures[0]) > 100


def test_failed_checks_come_first(page):
    outcomes = [cell.text for cell in visible(page, ".results-table-row .col-result")]
    assert outcomes
    assert outcomes == sorted(outcomes, key=["Failed", "Skipped", "Passed"].index)


def test_rows_open_and_close_with_the_keyboard(page):
    cell = visible(page, ".col-result")[0]
    open_rows = len(visible(page, ".log"))
    page.execute_script("arguments[0].focus()", cell)
    assert page.switch_to.active_element == cell
    cell.send_keys("\ue007")
    assert len(visible(page, ".log")) == open_rows - 1
    visible(page, ".col-result")[0].send_keys(" ")
    assert len(visible(page, ".log")) == open_rows


def test_filters_take_rows_away(page):
    before = visible(page, ".results-table-row .col-result")
    page.find_element("css selector", "input[data-test-result=failed]").click()
    left = visible(page, ".results-table-row .col-result")
    assert 0 < len(left) < len(before)
    assert {cell.text for cell in left} == {"Passed", "Skipped"}
    page.find_element("css selector", "input[data-test-result=failed]").click()
    assert len(visible(page, ".results-table-row .col-result")) == len(before)


def test_links_lead_to_their_sections(page):
    links = visible(page, ".artifacts nav a")
    assert len(links) >= 6
    for link in links:
        target = link.get_attribute("href").split("#")[1]
        assert page.find_elements("id", target), target


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(page, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    page.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    screenshot(page, scheme)
    count, faint = page.execute_script(FAINT)
    assert count > 300
    assert faint == []


def test_prints_everything_that_is_closed(page):
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert (
        page.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert not visible(page, ".artifacts nav")
    assert not visible(page, ".controls")
    printed = page.execute_cdp_cmd("Page.printToPDF", {})["data"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "print.pdf").write_bytes(base64.b64decode(printed))
