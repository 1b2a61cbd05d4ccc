"""vk.audit as users call it: its rows and verdicts, its page and JSON, what it refuses, and the command."""

from __future__ import annotations

import copy
import importlib
import io
import json
import math
import re
import stat

import pytest
import torch
from audit_cases import KEY, blend_bank, people_of, same_nonces, sealed_bank, small_model
from rich.console import Console
from typer.testing import CliRunner

import veilkern as vk
from veilkern.auditing import recognition, run
from veilkern.auditing.attacks import ATTACKS
from veilkern.auditing.report import FILES, interval, noise, number
from veilkern.auditing.statistics import NOTHING, Figure
from veilkern.auditing.verdict import GIVEN_AWAY, NOTHING_FOUND, UNSURE, UNTRIED
from veilkern.cli import app

cli_audit = importlib.import_module("veilkern.cli.audit")
COUNTS = (4, 3, 3, 2, 4, 3, 3, 3, 3, 3)
NET = "veilkern.samples:load_model"
TAKES_OUT = [attack.name for attack in ATTACKS if not attack.keeps_veil]


@pytest.fixture(scope="module")
def crowd():
    return people_of(COUNTS)


@pytest.fixture(scope="module")
def networks():
    return [small_model(name="a"), small_model(seed=4, name="a")]


@pytest.fixture(scope="module")
def blend_audit(crowd, networks):
    gallery = people_of((20,), seed=9).images
    return vk.audit(
        networks[0],
        crowd,
        blend_bank(crowd),
        networks=networks[1:],
        gallery=gallery,
        train_minutes=0.002,
        progress=False,
    )


@pytest.fixture(scope="module")
def sealed_audit(crowd, networks):
    with pytest.MonkeyPatch.context() as patch:
        same_nonces(patch)
        return vk.audit(networks[0], crowd, sealed_bank(crowd), key=KEY, networks=networks[1:], progress=False)


def test_blended_photos_are_given_away(blend_audit, crowd):
    assert [row.name for row in blend_audit.attacks] == [*(attack.name for attack in ATTACKS), "inverter"]
    for name in ("average", "difference", "known_pair", "known_veil"):
        row = blend_audit[name]
        assert row.verdict == GIVEN_AWAY and row.auc_ssim.low > 0.5, row
    assert blend_audit["known_veil"].ssim.value > 0.9 and blend_audit["known_veil"].auc_ssim.value == 1.0
    clean = blend_audit.recognition[1].clean  # what is recovered is as recognisable as the photo
    assert blend_audit["known_veil"].rank1["a (2)"].value == pytest.approx(clean.value, abs=0.05)
    assert blend_audit["average"].photos == len(crowd.images) and blend_audit["average"].people == len(crowd)
    assert blend_audit["known_pair"].photos == len(crowd.images) - len(crowd)
    assert blend_audit.gallery == 20 and blend_audit.scheme == "blend" and blend_audit.field_tests == []
    with pytest.raises(KeyError, match="no such attack; there are as_it_is"):
        blend_audit["x"]


def test_sealed_photos_are_not(sealed_audit):
    for name in TAKES_OUT:
        row = sealed_audit[name]
        assert row.verdict in (NOTHING_FOUND, UNSURE), row.sentence  # they are few
        assert abs(row.ssim.value - row.ssim_others.value) < 0.03
    assert all(test.fine for test in sealed_audit.field_tests) and len(sealed_audit.field_tests) == 12


def test_recognition(blend_audit, networks):
    assert all(r.chance == {"a (2)": pytest.approx(1 / 30)} for r in blend_audit.attacks)
    one, other = blend_audit.recognition
    assert (one.network, one.crafted_for) == ("a", True) and (other.network, other.crafted_for) == ("a (2)", False)
    assert one.chance == pytest.approx(1 / 30) and one.clean.value > 0.1


def test_whom_a_network_sees_by_hand(crowd):
    """A network that sees the veil alone takes everybody for its person; one that sees through it, for who is there."""
    bank = sealed_bank(crowd)
    case = run.Case.of(crowd, bank, KEY)
    strangers = run.strangers_of(case)

    class Sees(vk.FaceModel):
        def __init__(self, answers):
            super().__init__(torch.nn.Identity(), size=16)
            self.answers = answers

        def features(self, images, *, batch=64, check=True):
            return torch.eye(len(crowd))[self.answers]

    clean = torch.eye(len(crowd))[crowd.rows]
    bootstrap = run.Bootstrap(len(crowd), 0)
    shares = []
    for answers in (crowd.rows, crowd.rows[strangers[:, 0]]):
        network = recognition.Network("n", Sees(answers), clean, clean[:0], False)
        found = recognition.recognise(case, network, strangers, bootstrap)
        shares.append((found.clean.value, found.impostor_as_veil.value, found.impostor_as_photo.value))
    assert shares == [(1.0, 1.0, 0.0), (1.0, 0.0, 1.0)]
    gallery = torch.eye(len(crowd))  # somebody of the gallery is just as alike: nobody is found
    network = recognition.Network("n", Sees(crowd.rows), clean, gallery, False)
    assert recognition.recognise(case, network, strangers, bootstrap).impostor_as_veil.value == 0.0


def test_nobody_is_looked_up_with_the_same_photo(crowd, monkeypatch):
    """The person in the photo is represented by the next photo of hers."""
    case = run.Case.of(crowd, blend_bank(crowd), None)
    strangers, asked = run.strangers_of(case), []
    first = recognition._found_first

    def watched(people, network, features, number):
        asked.append(number)
        return first(people, network, features, number)

    monkeypatch.setattr(recognition, "_found_first", watched)
    model = small_model()
    clean = model.features(crowd.images)
    network = recognition.Network("n", model, clean, clean[:0], False)
    recognition.recognise(case, network, strangers, run.Bootstrap(len(crowd), 0))
    other = strangers[:, 0]
    place = other - crowd.offsets[crowd.rows[other]]
    assert torch.equal(torch.cat(asked), place + 1)


def test_who_is_found_first_by_hand():
    people = people_of((2, 1, 3))
    g = torch.Generator().manual_seed(0)
    clean, gallery, probes = (
        torch.nn.functional.normalize(torch.randn(n, 4, generator=g, dtype=torch.float64)) for n in (6, 2, 40)
    )
    number = torch.arange(40) % 5
    network = recognition.Network("n", None, clean, gallery, False)
    found = recognition._found_first(people, network, probes, number)
    for probe, count, who in zip(probes, number.tolist(), found.tolist(), strict=True):
        templates = [clean[0 + count % 2], clean[2], clean[3 + count % 3], *gallery]
        best = max(range(5), key=lambda t: float(probe @ templates[t]))
        assert who == (best if best < 3 else -1)
    assert recognition._found_first(people, network, probes[:1] * math.nan, number[:1]).tolist() == [-1]
    assert set(found.tolist()) == {-1, 0, 1, 2}


def test_rank1_is_of_the_outputs_there_are(crowd):
    case = run.Case.of(crowd, blend_bank(crowd), None)
    model = small_model()
    clean = model.features(crowd.images)
    network = recognition.Network("n", model, clean, clean[:0], False)
    bootstrap = run.Bootstrap(len(crowd), 0)
    every = run.Output(torch.arange(len(crowd.images)), {"clean": crowd.images})
    some = run.Output(torch.tensor([1, 5]), {"clean": crowd.images[[1, 5]]})
    found = vk.evaluate.identify(clean, clean, crowd, clean[:0])
    shares = [share for one in found for share in one.by_photo]
    assert recognition.rank1(case, network, every, "clean", bootstrap).value == pytest.approx(sum(shares) / len(shares))
    assert recognition.rank1(case, network, some, "clean", bootstrap).value == pytest.approx(
        (shares[1] + shares[5]) / 2
    )


def test_people_who_are_not_there(crowd, networks):
    strangers = vk.People(crowd.images, crowd.offsets, ["x", *crowd.names[1:]], crowd.files)
    found = vk.audit(networks[0], strangers, blend_bank(crowd), progress=False)
    assert found.people == len(COUNTS) - 1 and found.photos == sum(COUNTS[1:])
    assert "no veil, left out: x" in found.notices and "crafted for another network" in found.notices[0]
    with pytest.raises(ValueError, match="audit: people must hold at least two persons with a veil.*got 1"):
        vk.audit(networks[0], crowd, blend_bank(crowd).take([3]), progress=False)


def test_few_people_and_one_photo_each(networks):
    people = people_of((1, 1, 1))
    found = vk.audit(networks[0], people, sealed_bank(people), key=KEY, networks=networks[1:], progress=False)
    assert [r.name for r in found.attacks if r.verdict == UNTRIED] == ["average", "difference", "known_pair"]
    assert "rough" in found.notices[-1] and "not possible with one photo" in found["average"].sentence
    assert math.isnan(found["as_it_is"].rank1["a (2)"].value)
    assert math.isnan(found.recognition[0].impostor_as_photo.value)
    plain = found.as_dict()
    assert plain["attacks"][3]["ssim"] == {"value": None, "low": None, "high": None}


def test_one_seed_one_result(crowd, networks):
    bank = blend_bank(crowd)
    one, again, other = (vk.audit(networks[0], crowd, bank, seed=seed, progress=False) for seed in (0, 0, 1))
    assert one.as_dict() == again.as_dict() != other.as_dict()
    assert one["as_it_is"].ssim == again["as_it_is"].ssim
    assert one["as_it_is"].ssim.value == other["as_it_is"].ssim.value
    assert one["as_it_is"].ssim.low != other["as_it_is"].ssim.low


def test_the_largest_seed(crowd, networks):
    assert vk.audit(networks[0], crowd, blend_bank(crowd), seed=2**32 - 1, progress=False).people == len(crowd)


def test_several_keys(crowd, networks):
    """Given once over, as a generator is; each person's own is found by its id."""
    other = b"another key of enough bytes"
    one, two = sealed_bank(crowd).take(range(5)), sealed_bank(crowd, key=other).take(range(5, 10))
    bank = one.join(two)
    found = vk.audit(networks[0], crowd, bank, key=(k for k in (KEY, other)), progress=False)
    assert next(t for t in found.field_tests if t.name == "max_error").fine
    with pytest.raises(ValueError, match="key must be the master key that the veil of .* was crafted with"):
        vk.audit(networks[0], crowd, bank, key=KEY, progress=False)


def test_gallery_pictures_of_the_people_are_left_out(crowd, networks):
    gallery = torch.cat([crowd.images[:2], people_of((3,), seed=4).images])
    found = vk.audit(networks[0], crowd, blend_bank(crowd), gallery=gallery, progress=False)
    assert found.gallery == 3 and any("2 of 5 gallery photos are pictures of the people" in n for n in found.notices)


def test_photos_without_a_feature_are_left_out(crowd):
    class Blind(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner = torch.nn.Linear(3 * 16 * 16, 8)

        def forward(self, x):
            found = self.inner(x.flatten(1))
            return torch.where((x[:, 0, 0, 0] == dark).view(-1, 1), math.nan, found)

    dark = float(crowd.images[5, 0, 0, 0].float() / 255)
    model = vk.FaceModel(Blind(), size=16)
    gone = int((crowd.images[:, 0, 0, 0] == crowd.images[5, 0, 0, 0]).sum())
    found = vk.audit(model, crowd, blend_bank(crowd), progress=False)
    assert found.photos == sum(COUNTS) - gone and any(crowd.files[5] in notice for notice in found.notices)


@pytest.mark.parametrize(
    "changes,error,words",
    [
        ({"model": 3}, TypeError, "model must be a FaceModel, got int"),
        ({"people": "x"}, TypeError, "people must be a People, got str"),
        ({"bank": None}, TypeError, "bank must be a VeilBank, got NoneType"),
        ({"networks": [4]}, TypeError, "networks must be FaceModels, got int"),
        ({"seed": -1}, ValueError, "seed must be an integer 0..4294967295, got -1"),
        ({"seed": 2**32}, ValueError, "seed must be an integer 0..4294967295, got 4294967296"),
        ({"seed": True}, ValueError, "seed must be an integer"),
        ({"train_minutes": -0.5}, ValueError, "train_minutes must be 0 or more, got -0.5"),
        ({"train_minutes": math.inf}, ValueError, "train_minutes must be 0 or more, got inf"),
        ({"gallery": torch.zeros(1, 3, 16, 16)}, ValueError, "gallery must be uint8 .*float32"),
        ({"gallery": torch.zeros(1, 3, 8, 16, dtype=torch.uint8)}, ValueError, "gallery must be uint8 .3, 16, 16|G, 3"),
        ({"people": people_of((2, 2), side=12)}, ValueError, "veils are 16 x 16, the photos of people 12 x 12"),
        ({"networks": [small_model(side=12)]}, ValueError, "small reads photos of 12 x 12, people has 16 x 16"),
        ({"bank": blend_bank(people_of(COUNTS))}, ValueError, "audit: key must be None"),
        ({"key": None}, ValueError, "audit: key must be given, the master key of this sealed bank"),
        (
            {"key": b"another key of enough bytes"},
            ValueError,
            "audit: key must be the master key that these veils were crafted with",
        ),
        ({"key": b"short"}, ValueError, "key must have at least 16 bytes, got 5"),
        ({"key": "text"}, TypeError, "key must be bytes"),
        ({"key": 7}, TypeError, "key must be bytes"),
    ],
)
def test_refused(crowd, networks, changes, error, words):
    arguments = {"model": networks[0], "people": crowd, "bank": sealed_bank(crowd), "key": KEY, **changes}
    model, people, bank = (arguments.pop(name) for name in ("model", "people", "bank"))
    with pytest.raises(error, match=words):
        vk.audit(model, people, bank, progress=False, **arguments)


def test_the_page_and_the_json(blend_audit, tmp_path):
    page = vk.write_audit(tmp_path / "out", blend_audit, title="<b>t</b>")
    html = page.read_text()
    assert "&lt;b&gt;t" in html and "<b>t<" not in html
    assert not re.search(r'src="(?!data:)|url\((?!#)|@import|href=', html)
    shown = sum(3 * len(photos) for photos in blend_audit.pictures.values())
    assert html.count("data:image/png;base64,") == html.count("<img") == html.count(' alt="') == shown
    assert all(r.title in html and r.verdict in html for r in blend_audit.attacks)
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["veilkern"] == vk.__version__ and found["scheme"] == "blend"
    assert [r["name"] for r in found["attacks"]] == [r.name for r in blend_audit.attacks]
    assert found["attacks"][3]["auc_ssim"]["value"] == blend_audit["average"].auc_ssim.value
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in (tmp_path / "out").iterdir())


def test_progress_ends_with_all_done(crowd, networks):
    seen = []
    vk.audit(networks[0], crowd, blend_bank(crowd), networks=networks[1:], progress=lambda *at: seen.append(at))
    total = len(ATTACKS) + 2 + 1
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_the_pictures_are_the_best_and_the_same_persons(blend_audit, crowd):
    """First the outputs of most SSIM above chance; then the last photo of each of five persons."""
    case = run.Case.of(crowd, blend_bank(crowd), None)
    output = ATTACKS[-1].run(case)
    found = run.score(case, output, run.strangers_of(case))
    above = (found.ssim - found.ssim_others.mean(1)).argsort(descending=True)[:3].tolist()
    spread = [0, 2, 4, 7, 9]
    wanted = [crowd.files[i] for i in dict.fromkeys(above + [int(crowd.offsets[p + 1]) - 1 for p in spread])]
    assert [p.file for p in blend_audit.pictures["known_veil"]] == wanted
    assert [p.ssim for p in blend_audit.pictures["known_veil"]][:3] == found.ssim[above].tolist()


def test_the_page_shows_the_best_first(blend_audit, crowd):
    for name, photos in blend_audit.pictures.items():
        assert 3 <= len(photos) <= 8 and len({p.file for p in photos}) == len(photos), name
        assert all(p.output.shape == (3, 16, 16) for p in photos)
    best = blend_audit.pictures["as_it_is"]
    assert all(torch.equal(p.output, p.protected) for p in best)
    assert all(torch.equal(p.original, crowd.images[crowd.files.index(p.file)]) for p in best)


def test_keys_of_the_json_are_those_of_the_documentation(blend_audit, sealed_audit, request):
    text = (request.config.rootpath / "docs" / "audit.md").read_text()

    def keys(value):
        if isinstance(value, dict):
            yield from value
            for one in value.values():
                yield from keys(one)
        elif isinstance(value, list):
            for one in value:
                yield from keys(one)

    for found in (blend_audit, sealed_audit):
        plain = found.as_dict()
        for entry in plain["attacks"]:
            entry["rank1"], entry["chance"] = list(entry["rank1"].values()), list(entry["chance"].values())
        assert not [key for key in set(keys(plain)) | {"veilkern"} if f"`{key}`" not in text]
        assert all(f"`{attack['name']}`" in text for attack in plain["attacks"])
        assert all(f"`{test['name']}`" in text for test in plain["field_tests"])


def test_nothing_secret_is_in_it(crowd, networks, tmp_path):
    """No key, no seed, nothing of a record."""
    bank = sealed_bank(crowd)
    records = [{"stray": "S3CRET", "photo_ids": ["S3CRET"]}] * len(crowd)
    bank = vk.VeilBank(
        bank.veils, bank.names, 0, records, {"name": "n", "seed": "S3CRET"}, {"seed": 918273645}, bank.key_id, levels=64
    )
    found = vk.audit(networks[0], crowd, bank, key=KEY, seed=192837465, progress=False)
    vk.write_audit(tmp_path, found)
    for name in FILES:
        text = (tmp_path / name).read_text()
        for word in ("S3CRET", "918273645", "192837465", KEY.decode(), KEY.hex(), "photo_ids"):
            assert word not in text
    assert KEY.decode() not in repr(found) and crowd.names[0] not in repr(found) and "sealed" in repr(found)
    assert "tensor" not in repr(found.pictures) and "tensor" not in repr(found.attacks)


def test_an_audit_is_never_replaced_unasked(blend_audit, tmp_path):
    for name in FILES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(vk.OutputError, match=f"holds an audit already.*{name}"):
            vk.write_audit(folder, blend_audit)
        assert [p.read_text() for p in folder.iterdir()] == ["mine"]
        refused = CliRunner().invoke(app, ["audit", "FACES", "--model", "none", "--veils", "v", "--out", str(folder)])
        assert "holds an audit already" in str(refused.exception)  # before anything is read
    vk.write_audit(folder, blend_audit, overwrite=True)
    assert {p.name for p in folder.iterdir()} == set(FILES)


def test_numbers_in_words():
    assert number(math.nan) == "–" and number(0.126) == "0.13" and interval(NOTHING) == ""
    assert interval(Figure(0.5, 0.41, 0.59)) == "0.41 to 0.59"
    assert noise(run.FieldTest("n", "t", 0.98437, 0.984375, -1.23)) == ("0.984370", "0.984375", "-1.2")
    assert noise(run.FieldTest("n", "t", 1.5, 1.5, 0.0))[0] == "1.500000"
    assert noise(run.FieldTest("n", "t", 5.9988, 5.9987, 0.3)) == ("5.9988", "5.9987", "+0.3")
    assert noise(run.FieldTest("n", "t", 64.123, 63.0, 1.0)) == ("64.12", "63.00", "+1.0")
    assert noise(run.FieldTest("n", "t", 4.0, 4.0)) == ("4", "4", "")


def test_the_printed_tables_fit_80_columns(blend_audit, sealed_audit, monkeypatch):
    long = copy.deepcopy(sealed_audit)
    long.recognition[0] = run.Recognition("a network of a long name:load", True, *[Figure(1, 1, 1)] * 4, 0.1)
    for found in (blend_audit, long):
        page = Console(width=80, record=True, file=io.StringIO())
        monkeypatch.setattr(cli_audit, "console", page)
        cli_audit.print_audit(found)
        text = page.export_text()
        assert "…" not in text and max(map(len, text.splitlines())) <= 80
        for one in found.attacks:
            assert one.title in text and one.verdict in " ".join(text.split())
        assert all(test.title in text for test in found.field_tests)
