"""Tables of launches: the shipped ones, the user's own, damaged ones, and how `veilkern tune` makes one."""

from __future__ import annotations

import importlib
import json
import time

import pytest
import torch
from helpers import BACKENDS, assert_near, batch, serving

import veilkern as vk
from veilkern import ops, reference, tuning
from veilkern.backends import launch_tables as launches
from veilkern.errors import VeilkernError

pytestmark = pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed")
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder of tables, empty."""
    monkeypatch.setenv("VEILKERN_LAUNCHES", str(tmp_path))
    launches.tables.cache_clear()
    yield tmp_path
    launches.tables.cache_clear()


def test_shipped_tables_are_whole():
    tables = {path.name: launches.read_table(path) for path in launches.shipped_folder().glob("*.json")}
    assert "default.json" in tables
    wanted = tables["default.json"]
    for name, table in tables.items():
        for op, classes in table.items():
            assert set(classes) <= set(wanted[op]), f"{name}: unknown classes of {op}"
            for kind, entry in classes.items():
                assert set(entry) <= set(wanted[op][kind]) | {"registers"}, f"{name}: {op}, {kind}"
    triton = importlib.import_module("veilkern.backends.triton")
    assert set(wanted) == set(triton.OPS)


def test_the_users_own_table_comes_first(folder, monkeypatch):
    monkeypatch.setattr(launches, "gpu_name", lambda device: "NVIDIA Test 9000")
    plain = launches.launch_of("blend", "u8", torch.device("cpu"))
    (folder / "nvidia-test-9000.json").write_text(
        json.dumps({"launches": {"blend": {"u8": {"block": 64, "num_warps": 2}}}})
    )
    launches.tables.cache_clear()
    assert launches.launch_of("blend", "u8", torch.device("cpu")) == {"block": 64, "num_warps": 2} != plain
    assert (
        launches.launch_of("blend", "u16", torch.device("cpu"))["block"] == 2048
    )  # what it lacks: the shipped default


def test_the_users_own_table_comes_before_one_shipped_for_the_gpu(folder, tmp_path_factory, monkeypatch):
    shipped = tmp_path_factory.mktemp("shipped")
    default = launches.shipped_folder() / "default.json"
    (shipped / "default.json").write_bytes(default.read_bytes())
    monkeypatch.setattr(launches, "gpu_name", lambda device: "NVIDIA Test 9000")
    monkeypatch.setattr(launches, "shipped_folder", lambda: shipped)
    for place, block in ((shipped, 32), (folder, 64)):
        entry = {"block": block, "num_warps": 2}
        classes = {"u8": entry, "u16": entry} if place == shipped else {"u8": entry}
        (place / "nvidia-test-9000.json").write_text(json.dumps({"launches": {"blend": classes}}))
    launches.tables.cache_clear()
    device = torch.device("cpu")
    assert launches.launch_of("blend", "u8", device)["block"] == 64  # the user's
    assert launches.launch_of("blend", "u16", device)["block"] == 32  # else that of the GPU
    usual = launches.read_table(default)["recover"]["u8"]
    assert launches.launch_of("recover", "u8", device) == usual  # else the default


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"launches": {"blend": {"u8": {"block": 100}}}}',
        '{"launches": {"blend": {"u8": {"blocks": 128}}}}',
        '{"launches": {"blend": {"u8": {"num_warps": 0}}}}',
        '{"launches": {"blend": {"u8": {"num_warps": true}}}}',
        '{"launches": {"blend": 3}}',
    ],
)
def test_a_damaged_table_is_an_error_that_names_the_file(folder, monkeypatch, text):
    monkeypatch.setattr(launches, "gpu_name", lambda device: "bad")
    (folder / "bad.json").write_text(text)
    with pytest.raises(VeilkernError, match=r"bad\.json: not a table of launches"):
        launches.launch_of("blend", "u8", torch.device("cpu"))


def test_a_launch_on_trial_is_that_of_its_class_alone():
    device, entry = torch.device("cpu"), {"block": 32, "num_warps": 1}
    usual = {(op, kind): launches.launch_of(op, kind, device) for op in ("blend", "recover") for kind in ("u8", "u16")}
    with launches.trying("blend", "u8", entry):
        for (op, kind), known in usual.items():
            assert launches.launch_of(op, kind, device) == (entry if (op, kind) == ("blend", "u8") else known)
        with launches.trying("recover", "u16", entry):
            assert launches.launch_of("recover", "u16", device) == entry
        assert launches.launch_of("blend", "u8", device) == entry
    assert all(launches.launch_of(*place, device) == known for place, known in usual.items())


def test_what_a_number_may_be(tmp_path):
    """Powers of two, but for what counts registers and slots."""
    for name in ("block", "tile", "group", "chunk", "num_warps", "registers", "slots_per_processor"):
        free = name in ("registers", "slots_per_processor")
        for value in (1, 2, 3, 24, 255, 256, 0, -2, 2.0, "2"):
            path = tmp_path / "table.json"
            path.write_text(json.dumps({"launches": {"blend": {"u8": {name: value}}}}))
            if type(value) is int and value > 0 and (free or value.bit_count() == 1):
                assert launches.read_table(path) == {"blend": {"u8": {name: value}}}
            else:
                with pytest.raises(VeilkernError, match=f"{name} = "):
                    launches.read_table(path)


@pytest.mark.thorough
def test_another_launch_gives_the_same_bits(folder):
    """blend and recover by any table; block_variance within rounding."""
    images, veils, rows = batch(3, 2, 14)
    table = {"blend": {"u8": {"block": 32, "num_warps": 1}}, "block_variance": {"f32": {"tile": 16, "num_warps": 2}}}
    (folder / launches.file_name(launches.gpu_name(DEVICE))).write_text(json.dumps({"launches": table}))
    with serving("triton"):
        assert torch.equal(ops.blend(images, veils, rows, 51), reference.blend(images, veils, rows, 51))
        loss, gradient = ops.block_variance_gradient(images.float() / 255)
    wanted = reference.block_variance_gradient(images.double() / 255)
    assert_near(loss, wanted[0], torch.float32)
    assert_near(gradient, wanted[1], torch.float32)


def test_tune_writes_a_table_that_is_then_used(folder):
    """Every class of an op is searched; what was there for other ops stays."""
    path = folder / launches.file_name(launches.gpu_name(DEVICE))
    path.write_text(json.dumps({"launches": {"ssim": {"f32": {"tile": 64, "num_warps": 2, "slots_per_processor": 1}}}}))
    told = []
    assert vk.tune(["blend"], photos=2, side=6, most=2, tell=told.append) == path
    table = launches.read_table(path)
    assert set(table) == {"blend", "ssim"} and set(table["blend"]) == {"u8", "u16"}
    assert launches.launch_of("blend", "u8", DEVICE) == table["blend"]["u8"]
    assert len(told) == 2 and told[0].startswith("blend, u8: {'block': ")
    about = json.loads(path.read_text())
    assert about["gpu"] == launches.gpu_name(DEVICE) and "veilkern tune on 2 photos of 3 x 6 x 6" in about["made_by"]


def test_tune_searches_near_the_present_launch_and_checks_results(folder):
    now = {"block": 256, "num_warps": 4, "registers": 128}
    tried = list(tuning.candidates(now))
    assert tried[0] == now and {"block": 512, "num_warps": 4, "registers": 128} in tried and len(tried) > 10
    assert {"block": 256, "num_warps": 4} in tried and all(entry["block"] in (128, 256, 512) for entry in tried)
    present = launches.launch_of("blend", "u8", DEVICE)

    def wrong_and_fast():  # with any other launch
        usual = launches.launch_of("blend", "u8", DEVICE) == present
        time.sleep(0.01 if usual else 0)
        return (torch.full((3,), 0.0 if usual else 1.0),)

    assert tuning.best_launch("blend", "u8", wrong_and_fast, DEVICE, 4) == (present, 1.0)


@pytest.mark.thorough
def test_every_candidate_is_compiled_once_ahead(folder, monkeypatch):
    """Whatever the number of processes, and one that fails keeps none from the others."""
    seen = []

    def works(*_):
        def call():
            seen.append(tuple(launches.launch_of("blend", "u8", DEVICE).items()))
            raise RuntimeError("does not compile")

        return {("blend", "u8"): call, ("seal", "u8"): call}

    monkeypatch.setattr(tuning, "works", works)
    for share in range(3):
        tuning._compile_share(DEVICE, 8, ["blend"], 5, share, 3)
    wanted = list(tuning.candidates(launches.launch_of("blend", "u8", DEVICE)))[:5]
    assert sorted(seen) == sorted(tuple(entry.items()) for entry in wanted)


def test_tune_has_work_for_every_class(folder):
    """One call of each piece of work that `veilkern tune` measures, on tiny photos."""
    default = launches.read_table(launches.shipped_folder() / "default.json")
    with vk.use_backend("triton"):
        works = tuning.works(DEVICE, 3, 16)
        assert set(works) == {(op, kind) for op, classes in default.items() for kind in classes}
        for (op, kind), call in works.items():
            if "wide" not in kind:  # a minute each in the interpreter; test_people_with_many_clean_features runs them
                assert all(t.dtype == torch.uint8 or t.double().isfinite().all() for t in call()), (op, kind)


def test_tune_wants_ops_that_there_are(folder):
    with pytest.raises(ValueError, match="only must name ops of blend, .*got blur"):
        vk.tune(["blur"], photos=1, side=8)
    with pytest.raises(ValueError, match="jobs must be 1 or more, got 0"):
        vk.tune(["blend"], photos=1, side=8, jobs=0)
    assert not list(folder.iterdir())
