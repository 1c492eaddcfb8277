# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages in a real Chromium: what it says, asks for and draws, in light and dark, wide, on a phone, by keyboard and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from support import browser, fleet_ops, long_run

pytestmark = pytest.mark.slow

# WCAG 2.2, 1.4.3 and 1.4.11.
TEXT, GRAPHIC = 4.5, 3.0
# Of each text its colour against the first ground behind it; of each bar the same.
CONTRASTS = """
(() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + 0.05) / (y + 0.05); };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
      if (found[3] > 0) throw new Error('half transparent: ' + at.className);
    }
    throw new Error('no ground');
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || element.closest('title, style')) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    found.push(['text', walk.currentNode.data.trim().slice(0, 40), ratio(parts(colour), ground(element))]);
  }
  for (const element of document.querySelectorAll('rect, circle, polyline')) {
    const style = getComputedStyle(element);
    const colour = style.fill === 'none' ? style.stroke : style.fill;
    found.push(['graphic', element.getAttribute('class'), ratio(parts(colour), ground(element.closest('figure, td, body')))]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses: of a run of 500 steps, of one that failed, of one that reached no host, and of a fleet."""
    folder = tmp_path_factory.mktemp("pages")
    error = {"message": "Step 1 failed <script>alert(1)</script>", "sqlstate": "42P01", "statement": "INSERT", "next": ["go on", "ansible-playbook rollback.yml -l x"]}  # fmt: skip
    failed = [
        event for event in long_run.journal(versions=3) if event.get("phase") in (None, "preflight", "plan", "backup")
    ]
    begun = {"phase": "apply", "host": "db1.example", "time": long_run.at(90)}
    failed += [
        {"event": "phase_started", **begun},
        {"event": "phase_failed", "duration_s": 2.0, "error": error, **begun},
    ]
    made = {
        "long": reporting.build(long_run.journal()),
        "failed": reporting.build(failed),
        "unreached": reporting.build(
            [], run=long_run.RUN, error={"msg": "Host db1 cannot be reached", "unreachable": True}
        ),
    }
    for name, report in made.items():
        (folder / f"{name}.html").write_text(reporting.as_page(report), encoding="utf-8")
    ops = fleet_ops.Ops(folder)
    for number in range(6):
        ops.run("nightly", fleet_ops.WELL, days=6 - number)
    ops.run("migrate", {}, failed="Step 1 failed", reaches=False, host="db2", days=0.1)
    ops.run("nightly", {**fleet_ops.WELL, "drill": {"verdict": "failed", "error": "the copy differs"}}, host="db3")
    hosts = (
        {**fleet_ops.HOST, "host": name} for name in ("db1", "db2", "db3", "a-host-with-a-long-name.hospital.example")
    )
    ops.fleet(*hosts, faults=("a fault",))
    (folder / "fleet.html").write_text(ops.page, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in (*made, "fleet")}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.opened(tmp_path_factory.mktemp("chromium")) as found:
        yield found


NAMES = ("long", "failed", "unreached", "fleet")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_nothing_to_the_console_and_asks_for_nothing_but_itself(
    chromium: browser.Browser, pages: dict[str, str], name: str
) -> None:
    chromium.said.clear(), chromium.asked.clear()
    chromium.open(pages[name])
    assert chromium.value("document.querySelector('h1').textContent").startswith(
        "Fleet" if name == "fleet" else "migrate in production"
    )
    assert chromium.said == []
    assert chromium.asked == [pages[name]]
    assert chromium.value("performance.getEntriesByType('resource').length") == 0


def test_the_browser_of_the_tests_tells_what_a_page_asks_for_and_gets_nothing(
    chromium: browser.Browser, tmp_path: Path
) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<img src='http://example.com/x.png'><script>console.error('bad'); nothing()</script>", encoding="utf-8"
    )
    chromium.said.clear(), chromium.asked.clear()
    chromium.open(page.as_uri())
    assert "http://example.com/x.png" in chromium.asked
    assert any("bad" in told for told in chromium.said)
    assert any("Uncaught" in told for told in chromium.said)
    assert any("ERR_NAME_NOT_RESOLVED" in told for told in chromium.said)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_every_text_and_every_bar_can_be_told_from_its_ground(
    chromium: browser.Browser, pages: dict[str, str], name: str, dark: bool
) -> None:
    chromium.open(pages[name], dark=dark)
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark
    found = chromium.value(CONTRASTS)
    assert len(found) > (1000 if name == "long" else 10)
    assert [one for one in found if one[2] < (TEXT if one[0] == "text" else GRAPHIC)] == []


@pytest.mark.parametrize("name", NAMES)
def test_at_360_pixels_nothing_stands_out_of_the_page(
    chromium: browser.Browser, pages: dict[str, str], name: str
) -> None:
    chromium.open(pages[name], width=360, height=740)
    # Also where everything is open.
    chromium.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chromium.value("document.documentElement.scrollWidth") == 360
    assert chromium.value("parseFloat(getComputedStyle(document.querySelector('p')).fontSize)") >= 14
    # The text of a chart does not shrink with it.
    assert chromium.value(
        "[...document.querySelectorAll('svg text')].every(one => one.getBoundingClientRect().height >= 10)"
    )
    outside = "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > 361 && !one.closest('.scroll, svg')).length"
    assert chromium.value(outside) == 0


@pytest.mark.parametrize(("name", "details"), [("long", 50), ("fleet", 2)])
def test_everything_that_opens_or_scrolls_is_reached_and_worked_by_keyboard(
    chromium: browser.Browser, pages: dict[str, str], name: str, details: int
) -> None:
    chromium.open(pages[name])
    wanted = chromium.value("document.querySelectorAll('summary, a, [tabindex=\"0\"]').length")
    seen = "window.seen = new Set(); document.addEventListener('focusin', event => seen.add(event.target)); 0"
    chromium.value(seen)
    closed, opened = chromium.value("document.querySelectorAll('details:not([open])').length"), 0
    for _ in range(4 * wanted):
        chromium.press("Tab")
        if chromium.value("document.activeElement.tagName === 'SUMMARY' && !document.activeElement.parentElement.open"):
            # A focus that cannot be seen is none.
            assert chromium.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
            chromium.press("Enter")
            assert chromium.value("document.activeElement.parentElement.open")
            opened += 1
        if chromium.value("document.activeElement === document.body"):
            break
    assert opened == closed >= details
    assert chromium.value("[...document.querySelectorAll('summary, a, [tabindex=\"0\"]')].every(one => seen.has(one))")


def test_a_click_selects_the_whole_command_of_the_way_back(chromium: browser.Browser, pages: dict[str, str]) -> None:
    chromium.open(pages["failed"])
    at = chromium.value(
        "(() => { const b = [...document.querySelectorAll('pre.copy')].at(-1); b.scrollIntoView(); const r = b.getBoundingClientRect();"
        " return [r.left + 40, r.top + r.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        chromium.ask("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)
    assert chromium.value("getSelection().toString().trim()") == "ansible-playbook rollback.yml -l x"


def test_on_paper_it_is_light_and_open_even_where_the_screen_is_dark(
    chromium: browser.Browser, pages: dict[str, str]
) -> None:
    chromium.open(pages["failed"], dark=True)
    chromium.ask(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.value("[...document.querySelectorAll('details')].some(one => !one.open)")
    closed = (
        "[...document.querySelectorAll('details:not([open]) table')].filter(one => one.closest('details:not([open])'))"
    )
    assert chromium.value(
        f"{closed}.every(one => one.checkVisibility({{contentVisibilityAuto: true}}) && one.getBoundingClientRect().height > 0)"
    )
    printed = chromium.ask("Page.printToPDF", printBackground=True)
    assert len(printed["data"]) > 10_000
    chromium.ask("Emulation.setEmulatedMedia", media="")
