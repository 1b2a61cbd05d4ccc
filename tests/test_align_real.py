"""Real faces (VEILKERN_REAL_FACES), put into larger pictures at known places: found, aligned, recognised."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from align_cases import pasted, save, tensor
from PIL import Image

import veilkern as vk
from veilkern.aligning.geometry import ARCFACE

pytestmark = [pytest.mark.real, pytest.mark.thorough]
PHOTOS = int(os.environ.get("VEILKERN_ALIGN_PHOTOS", "8"))  # of each of the twelve people


def pixels(path):
    return np.array(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, real_faces):
    """Photos of ordinary size, one in three with somebody else, smaller, beside; and where each person's points are."""
    root = tmp_path_factory.mktemp("align") / "photos"
    others = sorted((real_faces / "gallery").glob("*.png"))
    points = {}
    for p, person in enumerate(sorted((real_faces / "people").iterdir())):
        for i, file in enumerate(sorted(person.glob("*.png"))[:PHOTOS]):
            beside = [pixels(others[(37 * p + i) % len(others)])] if i % 3 == 0 else []
            picture, at = pasted([pixels(file), *beside], seed=100 * p + i)
            save(root / person.name / file.name, picture)
            points[f"{person.name}/{file.name}"] = at[0]
    return root, points


@pytest.fixture(scope="module")
def aligned(scenes):
    out = scenes[0].parent / "faces"
    return vk.align(scenes[0], out, progress=False), out


def test_every_face_is_found_and_its_crop_lies_where_it_belongs(scenes, aligned):
    """By how far the five points are off in the crop, on average over the five."""
    done, _ = aligned
    assert [str(problem) for problem in done.problems] == [] and done.written == len(scenes[1])
    off = []
    for photo in done.photos:
        matrix = photo.faces[photo.chosen].matrix
        seen = scenes[1][photo.name] @ matrix[:, :2].T + matrix[:, 2]
        off.append(np.linalg.norm(seen - ARCFACE, axis=1).mean())
    mean, most, worst = np.mean(off), np.quantile(off, 0.95), max(off)
    print(f"{len(off)} faces: points off by {mean:.2f} of 112 pixels, 95 in 100 below {most:.2f}, worst {worst:.2f}")
    assert mean < 1.8 and most < 3.5 and worst < 7


@pytest.mark.parametrize("name", ["reid0095", "mbf_relu6"])
def test_the_network_recognises_the_crops_nearly_as_well_as_the_originals(real_faces, aligned, name):
    model = vk.FaceModel.load(f"{real_faces / 'networks' / name}.py:load")
    people = vk.read_people(aligned[1])
    original = vk.read_people(real_faces / "people").take(
        [20 * p + i for p in range(len(people)) for i in range(PHOTOS)]
    )
    assert people.files == original.files
    rows = people.rows
    clean, again = model.features(original.images), model.features(people.images)
    means = torch.stack([clean[rows == p].mean(0) for p in range(len(people))])
    same = (clean * again).sum(1)

    def first(features):
        """The share whose nearest mean, of the originals but the photo's own, is the person's."""
        scores = features @ torch.nn.functional.normalize(means, dim=1).T
        for i, p in enumerate(rows.tolist()):
            rest = means[p] - clean[i] / int((rows == p).sum())
            scores[i, p] = features[i] @ torch.nn.functional.normalize(rest, dim=0)
        return (scores.argmax(1) == rows).float().mean().item()

    print(f"{name}: rank-1 of the originals {first(clean):.3f}, of the crops {first(again):.3f}")
    print(f"cosine of a crop to its original {same.mean():.3f}, least {same.min():.3f}")
    assert first(again) >= first(clean) - 0.02 and same.mean() > 0.85


def test_with_a_model_the_person_is_found_behind_a_larger_stranger(real_faces, tmp_path):
    person = sorted((real_faces / "people").iterdir())[2]
    others = sorted((real_faces / "gallery").glob("*.png"))
    files = sorted(person.glob("*.png"))
    wanted = {}
    for i in range(4):
        save(tmp_path / "photos/x" / f"clear-{i}.png", pasted([pixels(files[i])], seed=i)[0])
        # The second face is the smaller one, but never too small.
        picture, at = pasted([pixels(others[i]), pixels(files[10 + i])], seed=50 + i, size=(900, 1200), scales=(2, 3))
        save(tmp_path / "photos/x" / f"stranger-{i}.png", picture)
        wanted[f"x/stranger-{i}.png"] = at[1]
    model = vk.FaceModel.load(f"{real_faces / 'networks' / 'reid0095'}.py:load")
    done = vk.align(tmp_path / "photos", tmp_path / "out", model=model, progress=False)
    assert done.problems == [] and not any(photo.doubtful for photo in done.photos)
    for photo in done.photos:
        if photo.name in wanted:
            seen = photo.faces[photo.chosen].points
            assert np.linalg.norm(seen - wanted[photo.name], axis=1).mean() < 20, photo.name


def test_the_command_and_its_report(scenes, aligned):
    report = json.loads((aligned[0].report.parent / "report.json").read_text())
    assert report["faces"] == "mtcnn" and len(report["photos"]) == len(scenes[1])
    first = next(iter(scenes[1]))
    assert tensor(pixels(aligned[1] / first)).shape == (3, 112, 112)
