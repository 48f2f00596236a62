"""The report in a browser: what a person sees, clicks, types and prints. Screenshots of it are kept
in `artifact_report/screenshots/`."""

import base64
import csv
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.stats import Following
from tests.support.builders import first_pairs, layer_result, results_of, written
from tests.support.runs import BASE, QUICK, ROOT, run_checks

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
LONG = "question" * 25
# Between margins of 1 cm.
A4 = {"width": 718, "height": 1047, "deviceScaleFactor": 1}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything fails, with prompts that would like to be code."""
    content = first_pairs(3)
    for body in content["alignment_artifact_prompt_pairs"]["categories"].values():
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
const over = ([r, g, b, alpha = 1], under) =>
  [r, g, b].map((v, i) => v * alpha + under[i] * (1 - alpha));
const light = (color) => color.map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const paper = (element) => {
  const below = element.parentElement ? paper(element.parentElement) : [255, 255, 255];
  const found = getComputedStyle(element).backgroundColor;
  // What color-mix gives is in other units; it is a tint of the paper.
  return found.startsWith("rgb") ? over(rgb(found), below) : below;
};
const contrast = (element) => {
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(paper(element))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
// Marks in a figure's key are drawing, as its dots are.
const all = "body *:not(svg *, script, figure .key [aria-hidden])";
const texts = [...document.querySelectorAll(all)].filter((e) =>
  e.checkVisibility()
  && [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim()));
return [texts.length, texts.filter((e) => contrast(e) < 4.5).map((e) => e.textContent)];
"""  # The contrast that WCAG 2.2 asks of text, 4.5 to 1.


def chosen(page):
    return page.execute_script("return document.querySelector('#choose').value")


def press(page, keys, selector="body"):
    element = page.find_element("css selector", selector)
    page.execute_script("arguments[0].focus()", element)
    page.switch_to.active_element.send_keys(keys)


def test_opens_quickly_and_without_an_error(page):
    screenshot(page, "1400")
    assert [entry for entry in page.get_log("browser") if entry["level"] != "INFO"] == []
    timing = page.execute_script("return performance.getEntriesByType('navigation')[0].toJSON()")
    assert timing["loadEventEnd"] < 15_000, "a page that takes seconds, even on a busy machine"
    assert page.title.startswith(str(BASE))


def test_verdict_is_on_the_first_screen(page):
    (verdict,) = visible(page, ".verdict")
    assert verdict.text.startswith("0 of 8 layers separate")
    assert verdict.location["y"] + verdict.size["height"] < 400


def test_nothing_in_a_prompt_runs(page):
    page.find_element("id", "more").click()
    shown = page.find_element("id", "pairs").text
    assert shown.count(EVIL) == 20
    time.sleep(0.2)
    assert page.title.startswith(str(BASE))


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_fits_the_window(page, width):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
    page.refresh()
    page.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.find_element("id", "more").click()
    # As long as names and as many as sections get.
    page.execute_script("""
    document.querySelectorAll('.who').forEach((e) => (e.textContent += ` with ${e.textContent}`));
    document.querySelector('nav').append(...document.querySelector('nav').cloneNode(true).children);
    """)
    screenshot(page, f"{width}-open")
    wide = page.execute_script("return document.documentElement.scrollWidth - innerWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 0


def test_every_figure_is_drawn_and_named(page):
    figures = visible(page, "figure[data-figure]")
    assert len(figures) >= 9
    for figure in figures:
        drawing = figure.find_element("tag name", "svg")
        assert drawing.size["height"] > 50
        assert f"{BASE} (" in drawing.get_attribute("aria-label")
    marks = visible(page, "[data-figure=positions] .key [aria-hidden]")
    colours = [mark.value_of_css_property("color") for mark in marks]
    assert len(set(colours)) == len(colours) == 3, "curves and their marks are told apart"


def test_whatever_takes_the_focus_or_is_a_picture_has_a_name(page):
    """In the tree that screen readers read."""
    page.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    there = [node for node in nodes if not node["ignored"]]
    names = {
        (node["role"]["value"], node["name"]["value"].strip())
        for node in there
        if node["role"]["value"] in ("columnheader", "image", "img", "region")
        or any(p["name"] == "focusable" and p["value"]["value"] for p in node["properties"])
    }
    roles = {role for role, _ in names}
    assert {"button", "link", "combobox", "searchbox", "image", "columnheader"} <= roles
    assert [role for role, name in names if not name] == []
    assert len([name for role, name in names if role == "button" and "Enlarge" in name]) >= 9


def test_a_layer_is_chosen_by_click_key_list_and_address(page, report):
    assert chosen(page) == "layer_4-mlp_out"
    press(page, "\ue014")
    assert chosen(page) == "layer_5-mlp_out"
    assert page.current_url.endswith("#layer_5-mlp_out")
    assert "Layer 5" in page.find_element("id", "summary").text
    press(page, "\ue012\ue012")
    assert chosen(page) == "layer_3-mlp_out"
    page.find_element("css selector", ".matrix a[data-layer='layer_6-mlp_out']").click()
    assert chosen(page) == "layer_6-mlp_out"
    page.execute_script(
        "document.querySelector(\"[data-figure=effect] .hit[data-number='2']\")"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert chosen(page) == "layer_2-mlp_out"
    before = page.find_element("css selector", "[data-figure=distribution] svg").get_attribute(
        "outerHTML"
    )
    page.get("about:blank")
    page.get(f"{report.as_uri()}#layer_7-mlp_out")
    assert chosen(page) == "layer_7-mlp_out"
    after = page.find_element("css selector", "[data-figure=distribution] svg")
    assert after.get_attribute("outerHTML") != before


def test_tokens_say_their_values_by_keyboard_and_mouse(page):
    answer = visible(page, ".answer[tabindex]")[0]
    page.execute_script("arguments[0].focus()", answer)
    answer.send_keys("\ue014\ue014")
    said = page.find_element("css selector", ".pair .value").text
    assert "token 2 of 4, “" in said
    assert " SD, towards " in said
    assert chosen(page) == "layer_4-mlp_out", "the arrow keys are the answer's there"
    token = answer.find_elements("tag name", "span")[0]
    page.execute_script(
        "arguments[0].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))", token
    )
    assert token.get_attribute("title").startswith("token 1 of 4, “")
    assert token.value_of_css_property("background-color").startswith("rgba(")


def test_an_answers_tokens_average_to_its_score(page):
    """What is shown of a pair's tokens is what is shown of the pair."""
    gap = page.find_element("css selector", ".pair h3 b").text.split(" SD")[0]
    script = """
    const values = (answer) => [...answer.children].map((span) => {
      span.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
      return span.className === "cut" ? [] : [parseFloat(span.title.split("”: ")[1])];
    }).flat();
    const mean = (found) => found.reduce((a, b) => a + b, 0) / found.length;
    const [natural, artifact] = document.querySelectorAll(".pair .answer");
    return mean(values(artifact)) - mean(values(natural));
    """
    assert page.execute_script(script) == pytest.approx(float(gap), abs=0.011)


def test_pairs_are_searched_and_filtered(page):
    page.find_element("id", "search").send_keys(LONG[:16].upper())
    assert page.find_element("id", "count").text == "5 of 15 pairs"
    page.find_element("id", "search").clear()
    page.find_element("id", "search").send_keys(" \ue003")
    category = page.find_element("css selector", "#category option:nth-child(2)")
    category.click()
    assert page.find_element("id", "count").text == "3 of 15 pairs"
    assert {h.text.split(" / ")[0] for h in visible(page, ".pair h3")} == {category.text}


def test_table_is_sorted_filtered_and_copied(page):
    def column():
        cells = page.find_elements("css selector", "#table tbody tr:not([hidden])")
        return [
            row.find_elements("css selector", "td")[6].get_attribute("data-value") for row in cells
        ]

    head = page.find_elements("css selector", "#table thead th")[7]
    head.find_element("tag name", "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(value) for value in column()]
    assert values == sorted(values, reverse=True)
    press(page, " ", "#table thead th[aria-sort] button")
    assert [float(value) for value in column()] == values[::-1]
    page.find_element("id", "filter").send_keys("layer_3")
    assert len(column()) == 1
    page.execute_script(
        "Object.defineProperty(navigator, 'clipboard', "
        "{value: {writeText: (text) => { window.copied = text; }}})"
    )
    page.find_element("id", "copy").click()
    titles, row = csv.reader(page.execute_script("return window.copied").splitlines())
    assert titles[:2] == ["layer and site", "separates"]
    assert titles[7:10] == ["d", "d lower", "d upper"]
    assert row[:2] == ["layer_3-mlp_out", "doesn't"]
    assert len(row) == len(titles)
    assert float(row[8]) < float(row[7]) < float(row[9])
    assert page.find_element("id", "copied").text == "1 rows copied"


def test_figures_enlarge(page):
    page.find_element("css selector", "[data-figure=effect] [data-do=enlarge]").click()
    large = page.find_element("css selector", "dialog[open] svg")
    small = page.find_element("css selector", "[data-figure=effect] svg")
    assert large.size["width"] > 1.5 * small.size["width"]
    page.switch_to.active_element.send_keys("\ue00c")
    assert not visible(page, "dialog")


def test_like_failures_are_told_once_and_closed(page):
    groups = visible(page, "details.group")
    assert not [group for group in groups if group.get_attribute("open")]
    assert len({group.text.split(" in ")[0] for group in groups}) == len(groups)
    assert " in 8 of 8 " in groups[0].text


def test_links_lead_to_their_sections(page):
    links = visible(page, "nav a")
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
    assert len(visible(page, ".pair")) == 15
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert not visible(page, "nav, .chooser, .buttons")
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**A4, "mobile": False})
    wide = page.execute_script("return document.documentElement.scrollWidth - innerWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 0
    printed = page.execute_cdp_cmd("Page.printToPDF", {})["data"]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "print.pdf").write_bytes(base64.b64decode(printed))


def opened(driver, folder, found):
    (folder / "report.html").write_text(found.page(), encoding="utf-8")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    driver.get((folder / "report.html").as_uri())


def test_a_chosen_layer_is_in_sight_on_a_telephone(driver, tmp_path):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    opened(driver, tmp_path, results_of(*map(layer_result, range(62))))
    box = "return document.querySelector('.matrix .chosen').getBoundingClientRect().toJSON()"
    head = driver.execute_script(box)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert 150 < head["left"] < head["right"] < 390


def test_lower_bounds_are_drawn(driver, tmp_path):
    follows = Following(0.7, 0.4, 0.01, 0.3, 0.4, 0.01, 20, 20, 3, (1.0,) * 8, (0.0,) * 8)
    opened(driver, tmp_path, results_of(replace(layer_result(), follows=follows)))
    ends = driver.execute_script("""
    const line = document.querySelector("[data-figure=behaviour] g line");
    return [line.getAttribute("y1"), line.getAttribute("y2")].map(Number);
    """)
    assert ends[1] - ends[0] > 20
    assert driver.find_elements("css selector", "[data-figure=behaviour] circle.hollow")
