"""The page of results in Chromium: no error, sorting, filters, keyboard, hostile names, narrow screens, contrast."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import board_row, random_images

from genbench import images, page, report, tables
from genbench.images.strips import About

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver (apt install chromium-driver)"
    ),
]

HOSTILE = [
    "x(a='</script><script>window.hacked = 1</script>')",
    "x(a='<img src=x onerror=window.hacked=1>', steps=3)",
    "x(a='{{ 7 * 7 }}')",
    "x(a='\" onmouseover=window.hacked=1 \"', steps=4)",
    f"x(a='{'W' * 300}')",
]


def rows() -> list[dict[str, str]]:
    """220 systems, with values in no order, the hostile names among them, and one that lacks a metric."""
    rng = np.random.default_rng(0)
    models = [*HOSTILE, *(f"ddim(steps={n})" for n in range(10, 140)), *(f"cfg(scale={s / 4})" for s in range(85))]
    found = []
    for number, model in enumerate(models):
        steps = {} if "steps" in model else {"evaluations": 50}
        value = float(rng.uniform(1, 80))
        found.append(board_row(model=model, value=value, stderr=value / 20, floor=0.5, **steps))
        if number:
            share = float(rng.uniform(0.3, 0.9))
            found.append(board_row(model=model, metric="recall", value=share, stderr=0.02, floor=0.95, **steps))
            found.append(
                board_row(model=model, metric="precision", value=1 - share / 2, stderr=0.02, floor=0.96, **steps)
            )
    found += [row | {"kind": "reported", "id": f"{i:012x}"} for i, row in enumerate(found[:3])]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of all that a page can have."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "board.csv").write_text(tables.text(report.COLUMNS, rows()))
    strips = []
    for number, model in enumerate(("ddim(steps=10)", "ddim(steps=11)", HOSTILE[0])):
        strips.append(folder / f"{number}.png")
        conditions = ("ring", "<b>star</b>", "heart", "arrow")
        about = About(model=model, dataset="shapes(seed=0)", seed=0, conditions=conditions)
        images.write_strip(random_images(4, 32, seed=number), strips[-1], about)
    target = folder / "page.html"
    target.write_text(page.rendered(page.gathered([folder / "board.csv", *strips], title="<i>Boards</i>")))
    return target


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra: test)")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--disable-dev-shm-usage",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The driver talks to itself by the network of this machine alone, and never looks for one elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        patch.setenv("SE_OFFLINE", "true")
        found = selenium.Chrome(options=options, service=Service(DRIVER, env=dict(os.environ)))
    yield found
    found.quit()


@pytest.fixture
def browser(driver: Any, written: Path) -> Any:
    """The page, opened anew on a wide screen in light colours."""
    screen(driver, 1440)
    driver.get(written.as_uri())
    return driver


def screen(driver: Any, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def names(browser: Any, board: str = "board-1") -> list[str]:
    """The systems that are seen, from above."""
    return browser.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} table.sortable tbody tr`)]"
        ".filter((row) => !row.hidden).map((row) => row.cells[0].querySelector('a').title)",
        board,
    )


def column(browser: Any, number: int, board: str = "board-1") -> list[Any]:
    return browser.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} table.sortable tbody tr`)]"
        ".map((row) => row.cells[arguments[1]].dataset.v ?? null).map((v) => v === null ? null : Number(v))",
        board,
        number,
    )


def heads(browser: Any, board: str = "board-1") -> list[Any]:
    return browser.find_elements("css selector", f"#{board} table.sortable thead th")


def test_the_page_opens_without_an_error_and_asks_for_nothing(browser: Any) -> None:
    assert browser.get_log("browser") == []
    assert browser.title == "<i>Boards</i>"
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_hostile_names_stay_text(browser: Any) -> None:
    assert browser.execute_script("return window.hacked") is None
    assert set(HOSTILE) <= set(names(browser))
    assert browser.execute_script("return document.querySelectorAll('script').length") == 1
    assert "&lt;b&gt;star" in browser.page_source and not browser.find_elements("css selector", "main i")


def test_the_policy_stops_what_is_not_of_the_page(browser: Any) -> None:
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.hacked = 1';"
        "document.body.append(script);"
        "const image = new Image(); image.src = 'https://example.org/x.png'; document.body.append(image);"
        "document.body.insertAdjacentHTML('beforeend', '<b id=styled style=\"color: rgb(1, 2, 3)\">x</b>');"
    )
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return getComputedStyle(document.getElementById('styled')).color") != "rgb(1, 2, 3)"
    told = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "script-src" in told and "img-src" in told and "style-src" in told


def test_sorting_is_by_number_and_says_which_way(browser: Any) -> None:
    head = next(one for one in heads(browser) if one.text.startswith("recall"))
    place = heads(browser).index(head)
    button = head.find_element("tag name", "button")
    button.click()
    assert head.get_attribute("aria-sort") == "descending"  # the better end first
    values = column(browser, place)
    assert values[-1] is None and values[:-1] == sorted(values[:-1], reverse=True) and len(values) == 220
    button.send_keys("\ue007")  # Enter: the same by the keyboard
    values = column(browser, place)
    assert head.get_attribute("aria-sort") == "ascending"
    assert values[-1] is None and values[:-1] == sorted(values[:-1])
    heads(browser)[0].find_element("tag name", "button").click()
    assert head.get_attribute("aria-sort") is None and heads(browser)[0].get_attribute("aria-sort") == "ascending"
    steps = [name for name in names(browser) if name.startswith("ddim")]
    assert steps == sorted(steps, key=lambda name: int(name[11:-1]))  # ddim(steps=9) before ddim(steps=10)


def test_reported_numbers_have_no_order_to_sort_by(browser: Any) -> None:
    reported = browser.find_element("xpath", "//section[.//span[contains(@class, 'reported')]]")
    sortable = reported.find_elements("css selector", "thead button")
    assert [one.text for one in sortable] == ["system", "evaluations"]


def test_filters_show_what_fits_and_how_many(browser: Any) -> None:
    search = browser.find_element("css selector", "#board-1 input[type=search]")
    most = browser.find_element("css selector", "#board-1 input[type=number]")
    output = browser.find_element("css selector", "#board-1 output")
    assert output.text == "220 systems" and output.get_attribute("aria-live") == "polite"
    search.send_keys("DDIM steps=1")
    found = names(browser)
    assert len(found) == 50 == int(output.text.split()[0]) and all(name.startswith("ddim(steps=1") for name in found)
    most.send_keys("12")
    assert names(browser) == [f"ddim(steps={n})" for n in (10, 11, 12)] and output.text == "3 of 220 systems"
    search.clear()
    search.send_keys("</script>")
    most.clear()
    assert names(browser) == [HOSTILE[0]]


def test_a_metric_is_chosen_for_the_charts(browser: Any) -> None:
    def panels() -> list[bool]:
        return [one.is_displayed() for one in browser.find_elements("css selector", "#board-1 [data-panel]")]

    assert panels().count(True) == 1 and panels()[0]
    options = browser.find_elements("css selector", "#board-1 .chooser option")
    options[1].click()
    assert panels().count(True) == 1 and panels()[1]


def test_a_name_leads_to_its_command_which_can_be_copied(browser: Any) -> None:
    link = browser.find_element("css selector", "#board-1 tbody th a")
    sheet = browser.find_element("id", link.get_attribute("href").partition("#")[2])
    assert not sheet.get_attribute("open")
    link.send_keys("\ue007")
    assert sheet.get_attribute("open")
    command = sheet.find_element("css selector", "pre.command").text
    origin = {"origin": "file://", "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": origin["permissions"]})
    button = sheet.find_element("css selector", "button.copy")
    # The link may still be on its way to the sheet.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    read = "navigator.clipboard.readText().then(arguments[0], (error) => arguments[0](String(error)))"
    assert browser.execute_async_script(read) == command and command.startswith("genbench run --model ")
    assert button.text == "Copied"


def test_images_open_by_the_keyboard_and_focus_comes_back(browser: Any) -> None:
    dialog = browser.find_element("tag name", "dialog")
    first = browser.find_element("css selector", ".gallery button")
    first.send_keys("\ue007")
    assert dialog.get_attribute("open") and dialog.is_displayed()
    assert dialog.find_element("tag name", "p").text == first.find_element("tag name", "img").get_attribute("alt")
    focus = browser.switch_to.active_element
    focus.send_keys("\ue014")  # right: the next seed
    assert "image 1, <b>star</b>" in dialog.find_element("tag name", "p").text
    focus.send_keys("\ue015")  # down: the next system, of the same seed
    assert dialog.find_element("tag name", "p").text.startswith("ddim(steps=11): seed 0, image 1")
    assert browser.execute_script("return getComputedStyle(document.querySelector('dialog img')).imageRendering") == (
        "pixelated"
    )
    focus.send_keys("\ue00c")  # Escape
    assert not dialog.get_attribute("open")
    focused = browser.switch_to.active_element.find_element("tag name", "img").get_attribute("alt")
    assert focused.startswith("ddim(steps=11): seed 0, image 1")


def test_everything_is_there_without_a_script(driver: Any, written: Path) -> None:
    screen(driver, 1440)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(written.as_uri())
        tables_ = driver.find_elements("css selector", "#board-1 table.sortable tbody tr")
        assert len(tables_) == 220 and all(row.is_displayed() for row in tables_[:3])
        assert all(one.is_displayed() for one in driver.find_elements("css selector", "#board-1 [data-panel]"))
        assert not driver.find_element("css selector", "#board-1 .tools").is_displayed()
        assert not driver.find_elements("css selector", "thead button, button.copy")
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_no_screen_is_too_narrow(browser: Any, width: int) -> None:
    screen(browser, width)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page_ = "return [innerWidth, document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    screen_, scrolled, seen = browser.execute_script(page_)
    assert screen_ == width and scrolled <= seen


def test_tables_are_named_and_their_headers_have_scopes(browser: Any) -> None:
    without = "return [...document.querySelectorAll('th')].filter((one) => !one.scope).length"
    assert browser.execute_script(without) == 0
    unnamed = (
        "return [...document.querySelectorAll('table')]"
        ".filter((one) => !one.caption && !one.closest('[aria-label]')).length"
    )
    assert browser.execute_script(unnamed) == 0
    assert (
        browser.execute_script("return [...document.images].filter((one) => !one.alt && !one.closest('dialog')).length")
        == 0
    )
    assert browser.execute_script("return document.documentElement.lang") == "en"
    assert browser.execute_script(
        "return [...document.querySelectorAll('svg')].filter((one) => one.getAttribute('role') !== 'img'"
        " && one.getAttribute('aria-hidden') !== 'true').length"
    ) == 0  # fmt: skip
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    broken = (
        "return [...document.querySelectorAll('a[href^=\"#\"]')]"
        ".filter((one) => !document.querySelector(one.hash)).length"
    )
    assert browser.execute_script(broken) == 0


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgb = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = (c) => { const l = c.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
const behind = (one) => { for (; one; one = one.parentElement) {
  const c = rgb(getComputedStyle(one).backgroundColor); if (c[3] === 255) return c; } return rgb("white"); };
const worst = new Map();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
for (let node; (node = walker.nextNode());) {
  const one = node.parentElement;
  if (!node.textContent.trim() || !one.checkVisibility() || one.closest("script, style, title")) continue;
  if (one.closest(".hidden, [aria-hidden=true]") || seen++ > 4000) continue;
  const style = getComputedStyle(one), inside = one.closest("svg");
  const a = light(rgb(inside ? style.fill : style.color)), b = light(behind(inside ?? one));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const key = `${one.tagName}.${one.getAttribute("class")}`;
  if (ratio < (worst.get(key) ?? Infinity)) worst.set(key, ratio);
}
return [...worst.entries()];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Any, scheme: str) -> None:
    screen(browser, 1440, scheme)
    browser.execute_script(
        "[...document.querySelectorAll('details')].slice(0, 2).forEach((one) => { one.open = true; })"
    )
    found = dict(browser.execute_script(CONTRAST))
    assert len(found) > 20
    assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}


def test_the_print_has_every_chart_and_command(browser: Any) -> None:
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert all(one.is_displayed() for one in browser.find_elements("css selector", "#board-1 [data-panel]"))
        assert browser.find_element("css selector", "#board-1 pre.command").is_displayed()
        assert not browser.find_element("css selector", "#board-1 .tools").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
