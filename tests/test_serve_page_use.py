"""The page of `veilkern serve` in a real browser: keyboard, looks, what assistive technology reads, and its files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_cases import TOKEN, audited, browser, eventually, expect, faces, files, services, shown, visit

import veilkern as vk

pytestmark = [pytest.mark.process, pytest.mark.thorough]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = Path(vk.__file__).parent / "serving" / "page"


def test_everything_goes_by_keyboard(visit, files):
    one = visit()
    page, name = one.open(), one.service.bank.names[0]
    keys, choosers = page.keyboard, []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # early: a key is faster than the browser is told

    def tab_to(what: str) -> None:
        for _ in range(30):
            keys.press("Tab")
            assert page.evaluate(FOCUS_SHOWN), "the focus is not visible"
            if page.evaluate("(what) => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"{what} is not reached")

    tab_to("#token")
    keys.type(TOKEN)
    keys.press("Enter")
    expect(page.locator("#token-note")).to_contain_text("Accepted")
    tab_to("#zone")
    keys.press("Enter")
    eventually(page, lambda: choosers)
    choosers[0].set_files(files[:2])
    expect(page.locator(".row")).to_have_count(2)
    tab_to("#person")
    keys.press("ArrowDown")
    keys.press("Enter")
    expect(page.locator("#person")).to_have_value(name)
    keys.press("Enter")
    expect(page.locator("#status")).to_have_text("2 protected, 2 recovered.")
    tab_to("#sealed")
    keys.press("ArrowRight")
    expect(page.locator("#shown")).to_contain_text("blend")
    tab_to("#setting")
    keys.press("ArrowRight")
    expect(page.locator("#shown")).to_contain_text("alpha 0.21")
    tab_to(".row:nth-child(1) a.button")
    with page.expect_download():
        keys.press("Enter")
    tab_to("#audit-body .wide")


# The radio buttons of the scheme are drawn by their labels.
FOCUS_SHOWN = """() => {
  const at = document.activeElement;
  const drawn = at.matches(".segments input") ? at.nextElementSibling : at;
  return getComputedStyle(drawn).outlineStyle !== "none";
}"""

LOOKS = {
    "desktop-light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark", "reduced_motion": "reduce"},
    "phone": {"viewport": {"width": 320, "height": 640}, "color_scheme": "light", "has_touch": True},
}


@pytest.mark.parametrize("look", LOOKS)
def test_it_looks_well(visit, files, look):
    one = visit("sealed", **LOOKS[look])
    page, dark = one.open(), look == "desktop-dark"
    one.give_token()
    one.protect(one.service.bank.names[0], files[:3], "3 protected, 3 recovered.")
    expect(page.locator(".side .strip img")).to_have_count(6)
    page.click("#person")
    page.press("#person", "ArrowDown")
    if folder := os.environ.get("VEILKERN_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{look}.png", full_page=True)
    width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room
    light = page.evaluate(LIGHT)
    assert light < 0.1 if dark else light > 0.8
    assert page.evaluate(UNREADABLE) == []
    assert page.locator(shown(0, "protected")).evaluate("(img) => getComputedStyle(img).imageRendering") == "pixelated"
    moves = page.locator("#zone").evaluate("(zone) => getComputedStyle(zone).transitionDuration")
    assert (moves == "0s") == dark


_RATIO = """
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = rgb(colour).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
"""
LIGHT = f"() => {{ {_RATIO} return light(getComputedStyle(document.body).backgroundColor); }}"
# Texts that stand out from what is behind them by less than WCAG's 4.5.
UNREADABLE = f"""() => {{ {_RATIO}
  const behind = (node) => {{
    for (; node; node = node.parentElement) {{
      const colour = getComputedStyle(node).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }}
  }};
  const texts = [...document.body.querySelectorAll("*")].filter((node) =>
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) &&
    node.checkVisibility() && !node.closest(":disabled, noscript, script"));
  return texts.map((node) => {{
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.slice(0, 40)];
  }}).filter(([ratio]) => ratio < 4.5);
}}"""


def test_nothing_moves_when_pictures_come(visit, files):
    one = visit()
    page = one.open()
    one.give_token()
    page.set_input_files("#files", files[:2])
    expect(page.locator(".row")).to_have_count(2)
    before = [page.locator(f".row:nth-child({i}) .views").bounding_box() for i in (1, 2)]
    page.evaluate("(name) => { document.getElementById('person').value = name }", one.service.bank.names[0])
    page.evaluate("document.getElementById('bench').requestSubmit()")
    expect(page.locator(".side .strip img")).to_have_count(4)
    expect(page.locator(".reading").nth(1)).to_contain_text("Recovered within")
    assert [page.locator(f".row:nth-child({i}) .views").bounding_box() for i in (1, 2)] == before


def test_what_assistive_technology_reads(visit, files):
    one = visit()
    page = one.open()
    one.give_token()
    one.protect(one.service.bank.names[0], files[:2], "2 protected, 2 recovered.")
    expect(page.locator(".side .strip img")).to_have_count(4)
    assert (
        page.evaluate("[...document.querySelectorAll('input')].filter((i) => !i.labels.length).map((i) => i.id)") == []
    )
    assert page.evaluate(WITHOUT_WORDS) == []
    assert page.evaluate(REFERENCES) == []
    assert page.evaluate(UNNAMED) == []
    assert page.get_by_role("status").count() >= 2
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("button", name="Remove 0.png").count() == 1
    assert page.get_by_role("slider", name="Levels").get_attribute("aria-valuetext") == "64 levels"
    assert page.get_by_role("radio", name="Sealed").is_checked()
    assert page.locator("html").get_attribute("lang") == "en"


UNLABELLED = "[...document.querySelectorAll('input')].filter((one) => !one.labels.length).map((one) => one.id)"
# Pictures without alt, and photos with an empty one.
WITHOUT_WORDS = """() => [...document.images]
  .filter((img) => !img.hasAttribute("alt") || (!img.alt && img.src.startsWith("blob:"))).map((img) => img.outerHTML)"""
# Ids that are there twice, and those referred to that are not there.
REFERENCES = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  const wanted = ["aria-describedby", "aria-labelledby", "aria-controls", "for"].flatMap((name) =>
    [...document.querySelectorAll(`[${name}]`)].flatMap((node) => node.getAttribute(name).split(" ")));
  return [...ids.filter((id, i) => ids.indexOf(id) !== i), ...wanted.filter((id) => !ids.includes(id))];
}"""
UNNAMED = """() => [...document.querySelectorAll("button, a, section, [role=region]")]
  .filter((node) => !(node.textContent.trim() || node.ariaLabel)).map((node) => node.outerHTML)"""


def test_the_files_are_as_the_policy_wants_them(visit):
    one = visit()
    answers: dict[str, dict] = {}
    one.page.on("response", lambda response: answers.setdefault(urlsplit(response.url).path, response.headers))
    one.open()
    assert answers["/"]["content-security-policy"] == POLICY
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    loaded = {path: headers["content-type"] for path, headers in answers.items() if path.startswith("/static/")}
    assert set(loaded) >= {f"/static/{path.name}" for path in PAGE.iterdir() if path.suffix in (".js", ".css")}
    assert all(kind.startswith(kinds[Path(path).suffix]) for path, kind in loaded.items())
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage|sessionStorage", text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert len(text.splitlines()) <= 400
    assert not re.search(r"style=|<style|<script>|\son\w+=", (PAGE / "index.html").read_text())
