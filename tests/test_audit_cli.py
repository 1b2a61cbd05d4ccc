"""veilkern audit, the command, on a folder."""

from __future__ import annotations

import importlib
import json

import pytest
from audit_cases import KEY, sealed_bank
from typer.testing import CliRunner

from veilkern.cli import app
from veilkern.data.photos import write_png

cli_audit = importlib.import_module("veilkern.cli.audit")
NET = "veilkern.samples:load_model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, people):
    """Faces, a gallery, a sealed bank with its key beside it, and one bad photo."""
    root = tmp_path_factory.mktemp("audit")
    for image, file in zip(people.images, people.files, strict=True):
        (root / "faces" / file).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / "faces" / file, image)
    (root / "faces" / people.names[0] / "bad.png").write_bytes(b"no photo")
    (root / "gallery").mkdir()
    write_png(root / "gallery" / "0.png", 255 - people.images[0])
    sealed_bank(people).save(root / "veils.safetensors")
    (root / "veils.safetensors.key").write_bytes(KEY)
    (root / "veils.safetensors.key").chmod(0o600)
    return root


def test_the_command(folder, people):
    arguments = ["audit", folder / "faces", "--model", NET, "--networks", NET, "--veils", folder / "veils.safetensors"]
    arguments = [*map(str, arguments), "--gallery", str(folder / "gallery"), "--out", str(folder / "out")]
    done = CliRunner().invoke(app, arguments)
    text = done.output
    assert done.exit_code == 1 and "bad.png" in text and "1 left out" in text, (
        text,
        done.exception,
    )  # after all the rest
    assert "minus the average" in text and "page:" in text and (folder / "out" / "audit.html").is_file()
    found = json.loads((folder / "out" / "audit.json").read_text())
    assert found["people"] == 4 and found["gallery"] == 1 and len(found["recognition"]) == 2
    assert list(found["attacks"][0]["rank1"]) == ["veilkern sample network (2)"]
    (folder / "other.key").write_bytes(b"another key of enough bytes")
    (folder / "other.key").chmod(0o600)
    wrong = CliRunner().invoke(app, [*arguments, "--key-file", str(folder / "other.key"), "--overwrite"])
    assert "key must be the master key that these veils were crafted with" in str(wrong.exception)


def test_the_command_asks_for_a_key(folder, tmp_path, people):
    sealed_bank(people).save(tmp_path / "alone.safetensors")
    arguments = [
        "audit",
        folder / "faces",
        "--model",
        NET,
        "--veils",
        tmp_path / "alone.safetensors",
        "--out",
        tmp_path,
    ]
    asked = CliRunner().invoke(app, [*map(str, arguments)])
    assert "alone.safetensors.key" in str(asked.exception) and "--key-file" in str(asked.exception)
