"""Protected photos as files: PNG of 8 and 16 bits, and their marks."""

from __future__ import annotations

import io

import numpy as np
import png as pypng
import pytest
import torch
from photo_cases import file, picture, tensor
from photo_fuzz import MARK
from PIL import Image

from veilkern.data.marks import Mark, veil_id
from veilkern.data.photos import encode_png, read_mark, read_photo, read_protected, write_png
from veilkern.data.png import parse, with_text
from veilkern.errors import OutputError, PhotoError


@pytest.mark.parametrize("dtype,top", [(torch.uint8, 256), (torch.uint16, 65536)])
@pytest.mark.parametrize("mark", [None, MARK])
def test_png_round_trip(tmp_path, dtype, top, mark):
    pixels = torch.randint(0, top, (3, 20, 30)).to(dtype)
    write_png(tmp_path / "p.png", pixels, mark)
    assert torch.equal(read_protected(tmp_path / "p.png", size=(20, 30)), pixels)
    assert read_mark(tmp_path / "p.png") == mark
    with pytest.raises(PhotoError, match="wanted 30 x 20"):
        read_protected(tmp_path / "p.png", size=(30, 20))
    with pytest.raises(OutputError, match="there already"):
        write_png(tmp_path / "p.png", pixels, replace=False)


def test_protected_must_be_whole_png(tmp_path):
    picture().save(tmp_path / "lossy.jpg")
    with pytest.raises(PhotoError, match="lossy compression ruins"):
        read_protected(tmp_path / "lossy.jpg", size=(112, 112))
    for dtype in (torch.uint8, torch.uint16):
        whole = encode_png(torch.zeros((3, 112, 112), dtype=dtype))
        for cut in (30, len(whole) // 2, len(whole) - 20, len(whole) - 1):
            (tmp_path / "cut.png").write_bytes(whole[:cut])
            with pytest.raises(PhotoError, match="corrupt or truncated"):
                read_protected(tmp_path / "cut.png", size=(112, 112))


def test_bytes_of_16_bit_png_are_what_other_readers_see():
    pixels = torch.tensor([0, 255, 256, 65025], dtype=torch.int32).view(1, 2, 2).repeat(3, 1, 1).to(torch.uint16)
    for mark in (None, MARK):
        _, _, rows, info = pypng.Reader(file=io.BytesIO(encode_png(pixels, mark))).read()
        assert info["bitdepth"] == 16 and [list(r)[::3] for r in rows] == [[0, 255], [256, 65025]]


def test_a_protected_photo_is_no_original(file):
    path = file(encode_png(tensor(picture()), MARK))
    with pytest.raises(PhotoError, match="protected already"):
        read_photo(path)
    assert torch.equal(read_photo(path, protected=True)[0], tensor(picture()))


def test_marks():
    veil = torch.arange(75, dtype=torch.uint8).view(3, 5, 5)
    other = veil.clone()
    other[2, 4, 4] += 1
    ids = [veil_id(veil), veil_id(other), veil_id(veil.view(3, 25, 1)), veil_id(veil.permute(0, 2, 1))]
    assert len(set(ids)) == 4 and all(len(i) == 16 and int(i, 16) >= 0 for i in ids)
    assert veil_id(veil) == veil_id(veil.contiguous(memory_format=torch.contiguous_format).clone())
    assert Mark.parse(MARK.text()) == MARK and MARK.text().isascii()
    assert Mark("a", 51, True, "one bank") == Mark("a", 51, True, "another")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "3", "[" * 100_000, MARK.text()[:-1], MARK.text().replace("blend-1", "blend-2")]
)
def test_a_mark_that_is_none(file, text):
    path = file(with_text(encode_png(tensor(picture())), "veilkern", text))
    with pytest.raises(PhotoError, match="its mark cannot be read|another scheme or version"):
        read_mark(path)
    with pytest.raises(PhotoError, match="protected already"):
        read_photo(path)


def test_only_the_first_text_of_a_keyword_counts():
    data = with_text(with_text(encode_png(tensor(picture(size=(2, 2)))), "a", "second"), "a", "first")
    assert parse(data).texts == {"a": "first"}
