"""The page of `veilkern serve` in a real browser: what it does, and what it says when something goes wrong."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from page_cases import (
    KEY,
    TOKEN,
    audited,
    browser,
    drop,
    eventually,
    expect,
    faces,
    files,
    likeness,
    pixels,
    services,
    shown,
    visit,
)
from PIL import Image
from playwright.sync_api import Error

import veilkern as vk
from veilkern.data.photos import read_marked

pytestmark = [pytest.mark.process, pytest.mark.thorough]


@pytest.mark.parametrize("scheme", ["sealed", "blend"])
def test_photos_are_protected_and_come_back(visit, files, scheme, tmp_path):
    one = visit(scheme)
    page, bank, name = one.open(), one.service.bank, one.service.bank.names[0]
    one.give_token()
    with page.expect_file_chooser() as chooser:
        page.click("#zone")
    chooser.value.set_files(files[:2])
    page.fill("#person", name)
    page.press("#person", "Escape")
    page.click("#go")
    expect(page.locator("#status")).to_have_text("2 protected, 2 recovered.")
    for row, file in enumerate(files[:2]):
        original = np.array(Image.open(file)).astype(int)
        assert np.array_equal(pixels(page, shown(row, "original")), original)
        assert np.abs(pixels(page, shown(row, "protected")) - original).mean() > 40
        worst = np.abs(pixels(page, shown(row, "recovered")) - original).max()
        assert worst <= bank.error_bound
        expect(page.locator(".reading").nth(row)).to_have_text(f"Recovered within {worst} of 255 levels")
    with page.expect_download() as download:
        page.click(".row:nth-child(2) a.button")
    assert download.value.suggested_filename == "1.png"
    download.value.save_as(tmp_path / "hidden.png")
    hidden, mark = read_marked(tmp_path / "hidden.png", size=bank.size)
    assert mark is not None and mark.scheme == f"{scheme}-1"
    back = vk.recover(hidden[None], bank, name, key=KEY if scheme == "sealed" else None)[0]
    assert np.abs(back.permute(1, 2, 0).numpy().astype(int) - original).max() <= bank.error_bound


@pytest.mark.parametrize(("event", "where", "named"), [("drop", "#zone", "d.png"), ("paste", "body", "pasted-1.png")])
def test_photos_may_be_dropped_and_pasted(visit, files, event, where, named):
    page = visit().open()
    drop(page, where, event, files[0], "d.png")
    expect(page.locator(".row .name")).to_have_text(named)
    assert np.array_equal(pixels(page, shown(0, "original")), np.array(Image.open(files[0])))
    expect(page.locator("#go")).to_be_enabled()


def test_settings_follow_the_slider_and_the_latest_answer_wins(visit, files, faces):
    one = visit("blend")
    page, bank = one.open(), one.service.bank
    one.give_token()
    one.protect(bank.names[0], files[:1], "1 protected, 1 recovered.")
    expect(page.locator(".side.sealed .mean figcaption")).to_be_visible()
    before = pixels(page, shown(0, "protected"))
    held, failed = [], []
    page.route("**/v1/explore?*alpha=0.3*", lambda route: held.append(route))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.fill("#setting", "0.3")
    eventually(page, lambda: held)
    page.fill("#setting", "0.7")
    expect(page.locator("#shown")).to_contain_text("blend, alpha 0.70")
    expect(page.locator("#setting")).to_have_attribute("aria-valuetext", "alpha 0.70")
    expect(page.locator(".row figure:nth-child(2) img")).to_be_visible()
    other = vk.VeilBank(bank.veils, bank.names, round(0.7 * 255))
    wanted = vk.protect(faces.images[:1], other, [0])[0].permute(1, 2, 0).numpy()
    eventually(page, lambda: np.array_equal(pixels(page, shown(0, "protected")), wanted))
    with contextlib.suppress(Error):
        held[0].abort()  # gone already
    assert len(held) == 1 and [url for url in failed if "alpha=0.3" in url]
    page.click("#as-bank")
    eventually(page, lambda: np.array_equal(pixels(page, shown(0, "protected")), before))
    expect(page.locator("#blend")).to_be_focused()


def test_more_photos_than_one_request_may_explore(visit, files):
    one = visit("blend")
    page = one.open()
    one.give_token()
    one.protect(one.service.bank.names[0], [files[i % 4] for i in range(18)], "18 protected, 18 recovered.")
    page.click("label[for=sealed]")
    expect(page.locator("#shown")).to_contain_text("Shown: sealed, 64 levels of the first 16 photos.")
    expect(page.locator(".row .how:not(:empty)")).to_have_text(4 * ["as the bank"])
    expect(page.locator("#attack-note")).to_contain_text("The first 16 of 18 photos.")


def test_dragging_does_not_ask_for_every_step(visit, files):
    one = visit("blend")
    page = one.open()
    one.give_token()
    one.protect(one.service.bank.names[0], files[:1], "1 protected, 1 recovered.")
    expect(page.locator("#shown")).to_contain_text("Shown")
    eventually(page, lambda: len(one.sent("/v1/explore")) == 2)
    page.locator("#setting").evaluate(
        """(slider) => { for (let i = 30; i < 60; i++) {
          slider.value = i / 100; slider.dispatchEvent(new Event("input", { bubbles: true })); } }"""
    )
    expect(page.locator("#shown")).to_contain_text("alpha 0.59")
    last = [parse_qs(urlsplit(request.url).query) for request in one.sent("/v1/explore")[2:]]
    assert [query["alpha"] for query in last] == [["0.59"]]
    page.click("label[for=sealed]")
    page.press("#setting", "End")
    expect(page.locator("#shown")).to_contain_text("sealed, 128 levels")


def test_the_attack_shows_both_schemes(visit, files):
    one = visit()
    page = one.open()
    one.give_token()
    one.protect(one.service.bank.names[0], files, "4 protected, 4 recovered.")
    for scheme, like in (("blend", True), ("sealed", False)):
        side = page.locator(f".side.{scheme}")
        expect(side.locator(".strip img")).to_have_count(4)
        expect(side.locator(".mean img")).to_have_count(1)
        found = [
            likeness(pixels(page, f".side.{scheme} .strip li:nth-child({i + 1}) img"), np.array(Image.open(file)))
            for i, file in enumerate(files)
        ]
        assert (np.mean(found) > 0.3) == like, (scheme, found)
        words = side.locator(".sees").text_content()
        assert words.count(". ") + words.endswith(".") == 2
    page.click(".row:nth-child(1) button.quiet")
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator(".side.blend .strip img")).to_have_count(3)


def test_the_audit_stands_in_tables_verdict_first(visit, audited):
    one = visit()
    page = one.open()
    expect(page.locator("#audit-note")).to_have_text("Needs the token.")
    assert not one.sent("/v1/audit")
    one.give_token()
    report = json.loads((audited / "audit.json").read_text())
    rows = page.locator("#audit-body table").first.locator("tbody tr")
    expect(rows).to_have_count(len(report["attacks"]))
    assert page.locator("#audit-body > *").first.get_attribute("class").startswith("verdict")
    for row, attack in zip(rows.all(), report["attacks"], strict=True):
        text = row.text_content()
        assert attack["title"] in text and attack["verdict"] in text.lower()
        if not attack["not_possible"]:
            assert f"{attack['ssim']['value']:.3f}" in text and f"{attack['ssim_others']['value']:.3f}" in text
            assert f"{attack['chance']['other']:.3f}" in text
    heads = page.locator("#audit-body table").first.locator("thead").text_content()
    assert heads.count("by chance") == 3 + len(report["attacks"][0]["rank1"])
    tables = page.locator("#audit-body table")
    expect(tables.nth(1).locator("tbody tr")).to_have_count(2)
    expect(tables.nth(2).locator("tbody tr")).to_have_count(len(report["field_tests"]))


def test_the_token_is_checked_and_kept_in_memory_only(visit, files):
    one = visit()
    one.allowed = {401}
    page = one.open()
    expect(page.locator("#tools-note")).to_contain_text("need the token")
    page.fill("#token", "another-token-than-that")
    page.press("#token", "Enter")
    expect(page.locator("#token-problem")).to_have_text("The service did not accept this token.")
    expect(page.locator("#token")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#setting")).to_be_disabled()
    name = one.service.bank.names[0]
    page.fill("#token", "")
    one.protect(name, files[:2], "2 protected.")
    expect(page.locator(".row .frame").nth(2)).to_have_text("needs the token")
    assert not one.sent("/v1/recover") and not one.sent("/v1/explore")
    one.give_token()
    eventually(page, lambda: np.abs(pixels(page, shown(1, "recovered")) - np.array(Image.open(files[1]))).max() <= 4)
    expect(page.locator("#setting")).to_be_enabled()
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", one.service.address]
    assert not [request for request in one.requests if TOKEN in request.url]
    page.click("#token-forget")
    expect(page.locator(".side .strip img")).to_have_count(0)
    expect(page.locator(shown(0, "recovered"))).to_be_hidden()
    page.reload()
    page.locator("html[data-ready]").wait_for()
    expect(page.locator("#token")).to_have_value("")


def test_people_are_offered_by_name(visit):
    one = visit()
    page, names = one.open(), one.service.bank.names
    assert page.locator("#person").get_attribute("role") is None
    one.give_token()
    person = page.locator("#person")
    expect(person).to_have_attribute("role", "combobox")
    person.click()
    expect(page.locator("#people [role=option]")).to_have_text(names)
    person.fill(names[1].upper())
    expect(page.locator("#people [role=option]")).to_have_text([names[1]])
    person.press("ArrowDown")
    expect(person).to_have_attribute("aria-activedescendant", "person-0")
    person.press("Enter")
    expect(person).to_have_value(names[1])
    expect(person).to_have_attribute("aria-expanded", "false")


# What goes wrong


def test_an_unknown_person_is_told_at_the_field(visit, files):
    one = visit()
    one.allowed = {404}
    page = one.open()
    page.set_input_files("#files", files[:1])
    page.click("#go")
    expect(page.locator("#person-problem")).to_have_text("Say whose photos these are.")
    page.fill("#person", "Nobody")
    page.click("#go")
    expect(page.locator("#person-problem")).to_have_text("Nobody: nobody of that name has a veil.")
    expect(page.locator("#person")).to_be_focused()
    expect(page.locator("#go")).to_be_enabled()


def test_a_bad_photo_is_told_in_its_row_and_the_others_go_on(visit, files, tmp_path):
    one = visit()
    one.allowed = {422}
    page = one.open()
    one.give_token()
    (tmp_path / "torn.png").write_bytes(files[1].read_bytes()[:3000])
    Image.new("RGB", (40, 60), "teal").save(tmp_path / "small.png")
    name = one.service.bank.names[0]
    chosen = [files[0], tmp_path / "torn.png", tmp_path / "small.png", files[2]]
    one.protect(name, chosen, "2 protected, 2 recovered, 2 photos refused.")
    expect(page.locator(".row.bad")).to_have_count(2)
    expect(page.locator(".row:nth-child(2) .problem")).to_contain_text("torn.png")
    expect(page.locator(".row:nth-child(3) .problem")).to_contain_text("60 x 40")
    expect(page.locator(".row:nth-child(3) .about")).to_contain_text("another size than the veils")
    for row, file in ((0, files[0]), (3, files[2])):
        assert np.abs(pixels(page, shown(row, "recovered")) - np.array(Image.open(file))).max() <= 4
    page.check("#resize")
    page.click("#go")
    expect(page.locator("#status")).to_have_text("3 protected, 3 recovered, 1 photo refused.")
    assert pixels(page, shown(2, "protected")).shape == (112, 112, 3)
    eventually(page, lambda: page.locator(".side.sealed .strip img").count() == 3)


def test_limits_hold_before_anything_is_sent(visit, files, tmp_path):
    one = visit("protect")
    (tmp_path / "big.png").write_bytes(files[0].read_bytes() + bytes(150_000))
    Image.new("RGB", (500, 400)).save(tmp_path / "wide.png")
    page = one.open(limits={"body_bytes": 150_000, "photos": 2, "pixels": 112 * 112})
    page.set_input_files("#files", [tmp_path / "big.png", tmp_path / "wide.png", *files[:3]])
    problems = page.locator(".row .problem:not(:empty)")
    expect(problems).to_have_count(2)
    expect(problems.first).to_contain_text("the service takes 146 KiB at most: not sent")
    expect(problems.last).to_contain_text("400 × 500 pixels")
    page.fill("#person", one.service.bank.names[0])
    page.click("#go")
    expect(page.locator("#status")).to_have_text("3 protected, 2 photos refused.")
    assert len(one.sent("/v1/protect")) == 2


def test_a_service_that_is_gone_is_told(visit, files):
    one = visit()
    page = one.open()
    page.route("**/v1/protect", lambda route: route.abort())
    page.set_input_files("#files", files[:1])
    page.fill("#person", one.service.bank.names[0])
    page.click("#go")
    expect(page.locator("#problem")).to_contain_text("cannot be reached")
    one.faults = [fault for fault in one.faults if "net::ERR_FAILED" not in fault]
    page.unroute("**/v1/protect")
    busy = {"title": "Service Unavailable", "status": 503, "code": "busy", "detail": "4096 photos are waiting."}
    one.allowed = {503}
    page.route("**/v1/protect", lambda route: route.fulfill(status=503, json=busy, headers={"Retry-After": "2"}))
    page.click("#go")
    expect(page.locator("#problem")).to_have_text("4096 photos are waiting. Try again in 2 s.")


def test_without_the_roles_only_protect_is_there(visit, files):
    one = visit("protect")
    page = one.open()
    for part in ("#token-form", "#tools", "#attack", "#audit"):
        expect(page.locator(part)).to_be_hidden()
    one.protect(one.service.bank.names[0], files[:1], "1 protected.")
    expect(page.locator(".row figure")).to_have_count(2)
    paths = {urlsplit(request.url).path for request in one.requests if not request.url.startswith("blob:")}
    assert {path for path in paths if path.startswith("/v1/")} == {"/v1/about", "/v1/protect"}


def test_without_the_role_protect_photos_are_only_shown(visit, files):
    one = visit("blend")
    page = one.open(roles=["recover", "veils"])
    one.give_token()
    page.set_input_files("#files", files[:1])
    page.fill("#person", one.service.bank.names[0])
    page.press("#person", "Escape")
    expect(page.locator("#go")).to_have_text("Show")
    page.click("#go")
    eventually(page, lambda: np.abs(pixels(page, shown(0, "recovered")) - np.array(Image.open(files[0]))).max() <= 3)
    expect(page.locator(".row a.button")).to_be_hidden()
    assert not one.sent("/v1/protect") and not one.sent("/v1/recover")


def test_a_service_that_wants_its_token_for_everything_says_so(visit, files):
    one = visit("protect")
    page = one.open(token={"set": True, "everywhere": True})
    page.set_input_files("#files", files[:1])
    page.fill("#person", one.service.bank.names[0])
    expect(page.locator("#go-note")).to_have_text("This needs the token.")
    page.click("#go")
    expect(page.locator("#token")).to_be_focused()
    page.fill("#token", TOKEN)
    page.click("#go")
    expect(page.locator("#status")).to_have_text("1 protected.")
    assert one.sent("/v1/protect")[0].headers["authorization"] == f"Bearer {TOKEN}"
