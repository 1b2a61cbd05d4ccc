"""train from end to end: what it starts from, what it writes, what it leaves out, and what it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from train_cases import SIDE, TinyNet, config, insightface, one_thread, people, state_of, tiny, write_folder, write_rec

import veilkern as vk
from veilkern.errors import ModelError, PhotoError, VeilkernError
from veilkern.networks.loading import ARCHITECTURES
from veilkern.networks.making import make
from veilkern.samples import synthetic_people
from veilkern.training import prepare

SIGNED = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def fit(out, faces=None, **options) -> vk.TrainResult:
    given = {name: options.pop(name) for name in list(options) if name not in vk.TrainConfig.__dataclass_fields__}
    with tiny(), one_thread():
        return vk.train(faces or people(), config(**options), out=out, progress=False, **given)


def started(seed: int = 8, embedding: int = 16) -> vk.FaceModel:
    torch.manual_seed(seed)
    net = TinyNet(embedding).train()
    with torch.no_grad():
        for _ in range(30):  # until its BatchNorms know these people
            net(people().images / 127.5 - 1)
    return vk.FaceModel(net, size=SIDE, name="a tiny net", **SIGNED)


def features_of(path, images) -> torch.Tensor:
    net = TinyNet(16)
    net.load_state_dict(state_of(path))
    return vk.FaceModel(net, size=SIDE, **SIGNED).features(images)


def test_fine_tuning_starts_from_the_features_of_the_checkpoint(tmp_path):
    begun, images = started(), people().images
    wanted = begun.features(images)
    cosine = {}
    for name, start in (("tuned", begun), ("fresh", None)):
        options = {"lr": 1e-6, "weight_decay": 0.0, "steps": 1}
        found = features_of(fit(tmp_path / f"{name}.safetensors", start=start, **options).path, images)
        cosine[name] = (found * wanted).sum(1).mean().item()
    assert cosine["tuned"] > 0.98 and cosine["fresh"] < 0.5
    net, spec, fingerprint = prepare.network_of(vk.TrainConfig("iresnet18", small=True), make_checkpoint(tmp_path))
    there = state_of(tmp_path / "start.safetensors")
    assert all(torch.equal(value, there[name]) for name, value in net.state_dict().items())
    assert net.training and all(p.requires_grad for p in net.parameters()) and spec.size == (112, 112) and fingerprint


def make_checkpoint(folder, embedding: int = 64):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(make("iresnet18", small=True, embedding=embedding)[0].state_dict(), folder / "start.safetensors")
    return folder / "start.safetensors"


def test_another_start_or_seed_gives_other_weights_and_is_not_taken_up(tmp_path):
    out = tmp_path / "net.safetensors"
    fit(out, start=started(), steps=4)
    with pytest.raises(vk.OutputError, match=r"begun with another from \w+\.\. \(now \w+\.\.\)"):
        fit(out, start=started(9), steps=4, resume=True)


@pytest.mark.parametrize(
    "arch,options,text",
    [
        (
            "iresnet34",
            {"small": True},
            r"start\.safetensors: holds iresnet.*, which does not fit a small iresnet34 \(\S+",
        ),
        ("iresnet18", {}, "does not fit iresnet18 .*--small, --embedding"),
        ("iresnet18", {"small": True, "embedding": 32}, "does not fit a small iresnet18"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(arch, options, text, tmp_path):
    with pytest.raises(ModelError, match=text):
        prepare.network_of(vk.TrainConfig(arch, **options), make_checkpoint(tmp_path))
    with pytest.raises(ModelError, match="no such network file"):
        prepare.network_of(vk.TrainConfig(arch), tmp_path / "none.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small iresnet18, fitted a few steps on people of 112 x 112."""
    root, made = tmp_path_factory.mktemp("trained"), synthetic_people(6, 4, seed=41)
    given = vk.TrainConfig("iresnet18", "lmcl", small=True, steps=3, batch=8, margin=0.2, held_out=2, optimizer="adamw")
    with one_thread():
        return vk.train(made, given, out=root / "net.safetensors", progress=False)


def test_face_model_load_takes_what_was_trained_with_no_further_words(trained):
    model = vk.FaceModel.load(trained.path)
    assert model.input.size == (112, 112) and model.input.mean == (0.5,) * 3 and model.name.startswith("iresnet")
    assert model.features(synthetic_people(2, 2, seed=3).images).shape == (4, 128)
    assert not model.module.training


def test_the_file_tells_how_it_was_trained(trained):
    with safe_open(trained.path, "pt") as file:
        words = file.metadata()
    assert (
        words["architecture"] == "iresnet18" and words["training.head"] == "lmcl" and words["training.margin"] == "0.2"
    )
    assert (words["training.identities"], words["training.photos"], words["training.steps"]) == ("4", "16", "3")
    assert json.loads(words["training.verification"]) == trained.verification
    assert json.loads(words["training.about"])["scale"] == 24.0
    assert trained.verification["identities"] == 2 and 0 <= trained.verification["rank1"] <= 1


def test_an_input_of_ones_own_is_in_the_file(tmp_path):
    """The spec that training normalised by, whatever the architecture's usual one is."""
    with safe_open(fit(tmp_path / "net.safetensors", steps=1).path, "pt") as file:
        assert json.loads(file.metadata()["veilkern_input"])["size"] == [SIDE, SIDE]


def test_verification_on_other_photos_holds_nobody_out(tmp_path):
    result = fit(tmp_path / "net.safetensors", verify=people(6, 5, seed=99), held_out=None, steps=4)
    assert result.identities == 20 and result.verification["identities"] == 6 and result.verification["photos"] == 30
    with pytest.raises(ValueError, match="held_out and verify exclude each other"):
        fit(tmp_path / "other.safetensors", verify=people(6, 5, seed=99), held_out=3)
    with pytest.raises(PhotoError, match="verification needs two identities with two photos each, got 0"):
        fit(tmp_path / "other.safetensors", verify=people(6, 5).take([0, 5, 10]), held_out=None)


def test_without_verification_there_are_losses_alone(tmp_path):
    result = fit(tmp_path / "net.safetensors", held_out=0, steps=20)
    assert result.identities == 20 and result.verification is None and len(result.history) == 2
    assert all(line["verification"] is None for line in result.history)


def test_verify_every_so_many_steps(tmp_path):
    told: list[dict] = []
    result = fit(tmp_path / "net.safetensors", steps=11, verify_every=4, tell=told.append)
    assert [line["step"] for line in result.history] == [4, 8, 11] and told == result.history


@pytest.mark.parametrize("kind", ["folder", "rec"])
def test_damaged_photos_are_left_out_and_listed(kind, tmp_path):
    """Of those trained on and of those held out; each once, however often it came up."""
    made = people()
    if kind == "folder":
        faces = write_folder(tmp_path / "faces", made)
        bad = [faces / made.files[i] for i in range(0, 160, 20)]
        for path in bad:
            path.write_bytes(path.read_bytes()[:50])
        wanted = {str(path) for path in bad}
    else:
        found = insightface(made)
        found |= {number: found[number][:60] for number in range(1, 161, 20)}
        faces = write_rec(tmp_path / "train.rec", found)
        wanted = {f"{faces}:record {number}" for number in range(1, 161, 20)}
    result = fit(tmp_path / "net.safetensors", faces, steps=25)
    assert {problem.file for problem in result.problems} == wanted and len(result.problems) == 8
    whole = fit(tmp_path / "whole.safetensors", made, steps=25)
    assert result.identities == whole.identities and result.photos == whole.photos


def test_problems_outlive_an_interruption(tmp_path):
    made, out = people(), tmp_path / "net.safetensors"
    faces = write_folder(tmp_path / "faces", made)
    for i in range(0, 160, 20):
        (faces / made.files[i]).write_bytes(b"x")

    def crash(done: int, _: int) -> None:
        if done == 20:
            raise RuntimeError("crash")

    with tiny(), one_thread(), pytest.raises(RuntimeError, match="crash"):
        vk.train(faces, config(), out=out, save_every=10, progress=crash)
    assert len(fit(out, faces, resume=True).problems) == 8


@pytest.mark.parametrize(
    "options,error,text",
    [
        ({"out": "net.pt"}, ValueError, r"out must end in \.safetensors, got .*net\.pt"),
        ({"save_every": 0}, ValueError, "save_every must be an integer of 1 at least, got 0"),
        ({"verify_every": 1.5}, ValueError, "verify_every must be an integer of 1 at least, got 1.5"),
        ({"workers": -1}, ValueError, "workers must be an integer of 0 at least, got -1"),
        ({"threads": 0}, ValueError, "threads must be a positive integer"),
        ({"held_out": 19}, ValueError, "held_out must .* leave two to train on, got 19 of 20"),
        ({"faces": people(3, 4).take(range(4)), "held_out": None}, PhotoError, "two identities at least, got 1"),
        ({"out": "none/net.safetensors"}, VeilkernError, "no such folder"),
    ],
)
def test_wrong_arguments_are_named(options, error, text, tmp_path):
    with pytest.raises(error, match=text):
        fit(tmp_path / options.pop("out", "net.safetensors"), **options)
    assert not list(tmp_path.glob("[!.]*"))  # hidden: the lock


def test_few_photos_are_told(tmp_path):
    result = fit(tmp_path / "net.safetensors", people(3, 4), batch=32, steps=2, held_out=None)
    assert result.verification is None and result.photos == 12
    assert ["12 photos, fewer than a batch of 32" in str(notice) for notice in result.notices] == [True]


@pytest.mark.parametrize("module", ["lightning_fabric", "pytorch_metric_learning"])
def test_without_the_extra_the_error_names_it(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=r"training networks needs the train extra, `pip install veilkern\[train\]`"):
        fit(tmp_path / "net.safetensors")
    if module == "pytorch_metric_learning":
        assert fit(tmp_path / "net.safetensors", head="softmax", steps=1).steps == 1


@pytest.mark.process
def test_nothing_but_a_training_imports_the_extra():
    code = """
        import sys
        import veilkern as vk
        vk.train, vk.TrainConfig("iresnet18"), vk.TrainResult
        from typer.testing import CliRunner
        from veilkern.cli import app
        done = CliRunner().invoke(app, ["train", "--help"])
        assert done.exit_code == 0 and "--margin-warmup" in done.output
        odd = [m for m in sys.modules if m.split(".")[0] in ("lightning_fabric", "pytorch_metric_learning", "sklearn")]
        assert not odd, odd
    """
    import textwrap

    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=200)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_trained_and_loads_again(arch, tmp_path):
    """Its weights move, all of them but biases (those before a BatchNorm have no slope), and the file has its input."""
    made = synthetic_people(4, 3, seed=47)
    given = vk.TrainConfig(arch, "lmcl", small=True, steps=2, batch=6, held_out=0, lr=0.01)
    net, spec, _ = prepare.network_of(given, None)
    with one_thread():
        result = vk.train(made, given, out=tmp_path / "net.safetensors", progress=False)
    model = vk.FaceModel.load(result.path)
    assert model.input == spec and model.features(made.images).isfinite().all()
    after = model.module.state_dict()
    assert all(not torch.equal(p, after[name]) for name, p in net.named_parameters() if p.ndim > 1)
