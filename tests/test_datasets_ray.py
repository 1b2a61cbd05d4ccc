"""craft_dataset and protect_dataset by two workers of a Ray cluster on this machine, one of them killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import dataset_cases
import pytest
import torch
from dataset_cases import CONFIGS, KEY, SIDE, as_folder, as_tar, halves, model, photos
from typer.testing import CliRunner

import veilkern as vk
from veilkern.cli import app
from veilkern.crafting.run import Run
from veilkern.datasets import cluster, craft, protect
from veilkern.datasets.craft import CraftWorker
from veilkern.datasets.source import Unit
from veilkern.errors import BackendError, ModelError, OutputError, PhotoError
from veilkern.veils.folders import recover_folder

pytestmark = pytest.mark.thorough
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (veilkern[ray])")
PEOPLE = photos()
TWO = vk.Cluster(workers=2, cores=1)


@pytest.fixture(scope="module")
def ray():
    """A cluster of two cores, to which the jobs of this file connect; what is of tests is sent, not imported there."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    for module in (sys.modules[__name__], dataset_cases):
        ray.cloudpickle.register_pickle_by_value(module)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield ray
    ray.shutdown()


class Mortal(CraftWorker):
    """Dies once, with a veil in its journal."""

    def __call__(self, unit):
        mark, keep = self.job.folder.parent / "died", Run._keep

        def kept(run, record, veil):
            keep(run, record, veil)
            if not mark.exists():
                mark.write_text(str(run.journal.path))
                os.kill(os.getpid(), signal.SIGKILL)

        Run._keep = kept
        try:
            return super().__call__(unit)
        finally:
            Run._keep = keep


def wanted(root: Path, scheme: str) -> Path:
    """The bank of one process."""
    people = vk.read_people(as_folder(root / "plain", PEOPLE), size=SIDE)
    vk.craft(model(), people, CONFIGS[scheme], key=KEY, threads=1, progress=False).bank.save(root / "wanted")
    return root / "wanted"


def command(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@needs_ray
def test_a_folder_by_two_workers_of_whom_one_is_killed(ray, tmp_path, monkeypatch):
    """Every person ends with one veil, that of one process to the bit; then all photos are protected."""
    monkeypatch.setattr(craft, "CraftWorker", Mortal)
    root, out = as_folder(tmp_path / "faces", PEOPLE), tmp_path / "veils"
    (root / "p3" / "bad.png").write_bytes(b"noise")
    key = tmp_path / "veils.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    job = {"config": CONFIGS["sealed"], "out": out, "key": key, "cluster": TWO, "shards": 4, "threads": 1}
    found = vk.craft_dataset(model, root, **job)
    assert (tmp_path / "died").exists()
    assert found.people == found.crafted == len(PEOPLE) and out.read_bytes() == wanted(tmp_path, "sealed").read_bytes()
    assert not out.with_name("veils.shards").exists() and found.shards == []
    assert ["bad.png" in str(problem) for problem in found.problems] == [True]
    with pytest.raises(OutputError, match="there already"):
        vk.craft_dataset(model, root, **job)

    done = command("protect", root, "--veils", out, "--out", tmp_path / "protected", "--ray", "auto", "--workers", 2)
    assert done.exit_code == 1 and "23 photos protected" in done.output and "bad.png" in done.output, done.output
    recover_folder(tmp_path / "protected", found.bank, tmp_path / "clear", key=KEY, progress=False)
    people, clear = vk.read_people(root, size=SIDE), vk.read_people(tmp_path / "clear", size=SIDE)
    assert people.files == clear.files and (people.images.int() - clear.images.int()).abs().max() <= 4


@needs_ray
def test_tars_by_two_workers_to_shards(ray, tmp_path, monkeypatch):
    """craft --ray of files, to shards that stay; and their photos protected."""
    for n, part in enumerate(halves(PEOPLE)):
        as_tar(tmp_path / "faces" / f"{n}.tar", part)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    options = ["--model", "net.py:load", "--input-size", SIDE, "--steps", 3, "--photos-in-flight", 4, "--no-check"]
    options += ["--key-file", "key", "--threads", 1, "--ray", "auto", "--workers", 2, "--cores", 1, "--json"]
    made = command("craft", "faces", *options, "--out", "shards", "--no-join")
    assert made.exit_code == 0, made.output
    about = json.loads(made.stdout)
    assert (about["veils"], about["crafted"]) == (len(PEOPLE), len(PEOPLE))
    assert [Path(path).name for path in about["shards"]] == ["0.tar.safetensors", "1.tar.safetensors"]
    whole = vk.VeilBank.load(wanted(tmp_path, "blend"))
    for path in about["shards"]:
        bank = vk.VeilBank.load(path)
        assert torch.equal(bank.veils, whole.take(bank.names).veils)
    monkeypatch.setattr(protect, "run", in_turns)  # on Ray: above
    outcome = vk.protect_dataset(tmp_path / "faces", tmp_path / "shards", tmp_path / "protected", cluster=TWO)
    assert outcome.written == sum(map(len, PEOPLE.values())) and not outcome.problems
    assert sorted(path.name for path in (tmp_path / "protected").iterdir()) == ["0.tar", "1.tar"]


class Deadly:
    """A worker that one unit ends every time."""

    def __init__(self, job: str):
        self.job = job

    def __call__(self, unit):
        if unit.name == self.job:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"problems": [], "notices": [], "done": 1}


@needs_ray
def test_a_unit_that_ends_every_worker_is_listed_and_the_others_are_done(ray):
    units = [Unit(name, "/somewhere", ["x"]) for name in "abc"]
    found = {unit.name: row for unit, row in cluster.run(Deadly, "b", units, vk.Cluster(workers=1, cores=1))}
    assert found["a"]["done"] == found["c"]["done"] == 1
    ((where, cause),) = found["b"]["problems"]
    assert where == "/somewhere (b)" and f"its worker died {cluster.TRIES} times" in cause


def test_where_a_unit_failed_as_a_whole_nothing_is_joined(tmp_path, monkeypatch):
    """The same call again goes on. (The workers run here, in turns: what Ray does is tested above.)"""
    failing = {"p1"}

    def run(kind, job, units, _):
        worker = kind(job)
        for unit in units:
            yield unit, {"problems": [("u", "died")], "notices": []} if failing & {*unit.people} else worker(unit)

    monkeypatch.setattr(craft, "run", run)
    monkeypatch.setattr(craft, "require_ray", lambda: None)
    root, out = as_folder(tmp_path / "faces", PEOPLE), tmp_path / "veils"
    job = {"config": CONFIGS["sealed"], "out": out, "key": KEY, "shards": 4, "threads": 1}
    first = vk.craft_dataset(model, root, **job)
    assert first.bank is None and 0 < first.people < len(PEOPLE) and not out.exists()
    assert "not joined" in str(first.problems)
    failing.clear()
    second = vk.craft_dataset(model, root, **job)
    assert (second.people, second.crafted) == (len(PEOPLE), len(PEOPLE) - first.people)
    assert out.read_bytes() == wanted(tmp_path, "sealed").read_bytes()


def in_turns(kind, job, units, _):
    """`run`, in this process."""
    worker = kind(job)
    for unit in units:
        yield unit, worker(unit)


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(craft, "run", in_turns)
    monkeypatch.setattr(craft, "require_ray", lambda: None)


@pytest.mark.parametrize("kind", ("folder", "tar"))
def test_who_is_no_longer_in_the_source_keeps_her_veil(tmp_path, here, monkeypatch, kind):
    """Between a call that could not join and the one that does."""
    if kind == "folder":
        source, gone = as_folder(tmp_path / "faces", PEOPLE), "p1"
    else:
        source, gone = tmp_path / "faces", "0.tar.safetensors"
        for n, part in enumerate(halves(PEOPLE)):
            as_tar(source / f"{n}.tar", part)
    job = {"config": CONFIGS["sealed"], "out": tmp_path / "veils", "key": KEY, "shards": 4, "threads": 1}
    monkeypatch.setattr(craft, "join_shards", lambda *_: pytest.fail("the disk is full"))
    with pytest.raises(pytest.fail.Exception):
        vk.craft_dataset(model, source, **job)
    monkeypatch.undo()
    monkeypatch.setattr(craft, "run", in_turns)
    monkeypatch.setattr(craft, "require_ray", lambda: None)
    (source / (gone if kind == "folder" else "0.tar")).rename(tmp_path / "elsewhere")
    found = vk.craft_dataset(model, source, **job)
    assert (tmp_path / "veils").read_bytes() == wanted(tmp_path, "sealed").read_bytes()
    assert [notice.file for notice in found.notices if "no longer in the source" in notice.cause] == [gone]
    assert not (tmp_path / "veils.shards").exists()


def test_a_job_without_a_veil_leaves_nothing_in_the_way(tmp_path, here):
    root = as_folder(tmp_path / "faces", PEOPLE)
    job = {"config": CONFIGS["sealed"], "out": tmp_path / "veils", "threads": 1}
    with pytest.raises(ModelError, match="NaN"):
        vk.craft_dataset(silent, root, key=KEY, **job)
    assert not list(tmp_path.glob("veils*"))
    found = vk.craft_dataset(model, [root], key=b"another key of 16 bytes", **job)
    assert found.people == len(PEOPLE)


@pytest.mark.parametrize("join", (True, False))
@pytest.mark.parametrize("kind", ("folder", "tar"))
def test_an_output_in_the_source_is_refused(tmp_path, here, kind, join):
    source = tmp_path / "faces"
    as_folder(source, PEOPLE) if kind == "folder" else as_tar(source / "a.tar", PEOPLE)
    before = sorted(source.iterdir())
    for out in (source / "veils", source):
        with pytest.raises(OutputError, match="lies in the input folder"):
            vk.craft_dataset(model, source, CONFIGS["sealed"], out=out, key=KEY, join=join)
    assert sorted(source.iterdir()) == before


NETWORK = f"""
import torch
from torch import nn
import veilkern as vk

def load():
    torch.manual_seed(3)
    return vk.FaceModel(nn.Sequential(nn.Flatten(), nn.Linear({3 * SIDE**2}, 6)), size={SIDE}, name="linear")
"""


@pytest.mark.parametrize("fault", ("a network that tells nobody apart", "an output in the source", "no photo"))
def test_a_key_that_no_veil_came_of_goes(tmp_path, here, fault):
    """The key of sealed photos is made when all else is in order, and taken away where no veil came of it."""
    root = as_folder(tmp_path / "faces", PEOPLE if fault != "no photo" else {"a": {"x.png": b"noise"}})
    (tmp_path / "net.py").write_text(NETWORK)
    out = root / "v" if fault == "an output in the source" else tmp_path / "v"
    check = [] if fault == "a network that tells nobody apart" else ["--no-check"]
    words = ["--model", tmp_path / "net.py:load", "--scheme", "sealed", "--out", out, "--ray", "local", *check]
    done = command("craft", root, *words, "--input-size", SIDE, "--block", 3, 3, "--steps", 3)
    assert done.exit_code != 0, done.output
    assert not list(tmp_path.rglob("*.key")) and not out.exists()


def silent(*_) -> vk.FaceModel:
    network = model()
    torch.nn.init.constant_(network.module[1].weight, float("nan"))
    return network


def absent() -> vk.FaceModel:
    """Fails in workers alone."""
    if "ray" in sys.modules and sys.modules["ray"].get_runtime_context().worker.mode != 0:
        raise FileNotFoundError("net.py is not on this machine")
    return model()


@needs_ray
def test_what_ends_a_job_is_named(ray, tmp_path, monkeypatch):
    root = as_folder(tmp_path / "faces", {name: PEOPLE[name] for name in ("p0", "p1")})
    how = {"config": CONFIGS["blend"], "key": KEY}
    found = vk.craft_dataset(absent, root, out=tmp_path / "b", cluster=TWO, **how)
    assert found.people == 0 and "net.py is not on this machine" in str(found.problems[0])
    with pytest.raises(BackendError, match="9 workers of 1 cores and 0 GPUs have no room in a cluster of 2 cores"):
        vk.craft_dataset(model, root, out=tmp_path / "c", cluster=vk.Cluster(workers=9, cores=1), **how)
    with pytest.raises(BackendError, match="1 workers of 1 cores and 1 GPUs"):
        vk.craft_dataset(model, root, out=tmp_path / "d", cluster=vk.Cluster(cores=1, gpus=1), **how)


@needs_ray
def test_arguments_are_checked_before_any_work(tmp_path):
    root = as_folder(tmp_path / "faces", PEOPLE)
    with pytest.raises(ValueError, match="key must be given"):
        vk.craft_dataset(model, root, out=tmp_path / "out")
    with pytest.raises(TypeError, match="model must be a FaceModel or a function"):
        vk.craft_dataset("net.py:load", root, out=tmp_path / "out", key=KEY)
    network = model()
    network.module.add_module("odd", type("Odd", (torch.nn.Identity,), {"__module__": "a_file_by_path"})())
    with pytest.raises(TypeError, match="is of a_file_by_path, which workers cannot import"):
        vk.craft_dataset(network, root, out=tmp_path / "out", key=KEY)
    for bad in ({"shards": 0}, {"threads": True}, {"shards": 1.5}):
        with pytest.raises(ValueError, match=f"craft_dataset: {next(iter(bad))} must be a positive integer"):
            vk.craft_dataset(model, root, out=tmp_path / "out", key=KEY, **bad)
    with pytest.raises(TypeError, match="cluster must be a Cluster"):
        vk.craft_dataset(model, root, out=tmp_path / "out", key=KEY, cluster="auto")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="no person's folder"):
        vk.craft_dataset(model, tmp_path / "empty", out=tmp_path / "out", key=KEY)
    with pytest.raises(PhotoError, match="must be the only source"):
        vk.craft_dataset(model, [root, root], out=tmp_path / "out", key=KEY)
    with pytest.raises(PhotoError, match="missing"):
        vk.craft_dataset(model, tmp_path / "missing", out=tmp_path / "out", key=KEY)
    with pytest.raises(OutputError, match="lies in the input folder"):
        bank = vk.craft(model(), vk.read_people(root, size=SIDE), CONFIGS["blend"], key=KEY, progress=False).bank
        bank.save(tmp_path / "bank")
        vk.protect_dataset(root, tmp_path / "bank", root)
    assert not list(tmp_path.glob("out*"))


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (
        lambda: vk.craft_dataset(model, tmp_path, out=tmp_path / "out", key=KEY),
        lambda: vk.protect_dataset(tmp_path, tmp_path / "bank", tmp_path / "out"),
    ):
        with pytest.raises(BackendError, match=r"pip install 'veilkern\[ray\]'"):
            call()


@pytest.mark.parametrize(
    "words,cause",
    [
        (["--held-out", 1, "--ray", "local"], "--held-out is not for --ray"),
        (["--add", "--ray", "local"], "--add"),
        (["--overwrite", "--ray", "local"], "--overwrite is not for --ray"),
        (["--workers", 2], "--workers is for --ray"),
        (["--no-join"], "--no-join is for --ray"),
        (["--ray", "local"], "--ray needs --key-file"),
    ],
)
def test_options_that_would_mean_nothing_are_refused(tmp_path, words, cause):
    refused = command("craft", tmp_path, "--model", "net.py:load", "--out", tmp_path / "x", *words)
    assert refused.exit_code != 0 and cause in refused.output + str(refused.exception), refused.output
    if words == ["--workers", 2]:
        refused = command("protect", tmp_path, "--veils", "veils", "--out", tmp_path / "x", *words)
        assert refused.exit_code != 0 and cause in refused.output, refused.output
    assert not list(tmp_path.iterdir())
