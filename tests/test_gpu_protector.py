"""A Protector whose veils are on a GPU."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import data
from helpers import INTERPRETED

import veilkern as vk
from veilkern import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="no GPU here"),
]


@pytest.fixture(autouse=True)
def triton():
    with vk.use_backend("triton"):
        yield


@pytest.fixture
def protected():
    """Photos and rows on the host, the bank there, a Protector on the GPU, and the result by the CPU's kernels."""
    images, veils, rows = (data(40)[name].cpu() for name in ("images", "veils", "rows"))
    bank = vk.VeilBank(veils, ["a", "b", "c", "d"], 51)
    with vk.use_backend("cpu"):
        value = ops.blend(images, veils, rows, 51)
    return images, rows, bank, vk.Protector(bank, "cuda", max_batch=16), value


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_protector_takes_photos_from_the_host_and_from_the_gpu(protected, layout):
    """Host photos through pinned buffers in pieces of 16, 16 and 8; the kind, place and layout of the photos."""
    images, rows, _, protector, value = protected
    x, expected = ((t.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else t) for t in (images, value))
    for lossless in (False, True):
        for given in (x, x.pin_memory(), x.cuda(), x.numpy()):
            hidden = protector.protect(given, rows, lossless=lossless, layout=layout)
            back = protector.recover(hidden, rows, layout=layout)
            for found in (hidden, back):
                assert type(found) is type(given) and getattr(found, "device", 0) == getattr(given, "device", 0)
            assert lossless or torch.equal(torch.as_tensor(hidden).cpu(), expected)
            assert not lossless or torch.equal(torch.as_tensor(back).cpu(), x)
    out = torch.empty_like(x)
    assert protector.protect(x, ["abcd"[row] for row in rows], out=out, layout=layout) is out
    assert torch.equal(out, expected)


def test_a_protector_waits_for_nothing_with_photos_on_the_gpu(protected):
    images, rows, _, protector, value = protected
    near, who = images.cuda(), rows.cuda()
    protector.protect(near, who)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = protector.protect(near, who)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.equal(found.cpu(), value)


def test_veils_that_are_swapped_out_stay_until_they_are_read(protected):
    """The host swaps the bank while a side stream has yet to read its veils, and fills the memory they leave."""
    images, rows, bank, protector, value = protected
    near, who, stream = images.cuda(), rows.cuda(), torch.cuda.Stream()
    protector.protect(near, who)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        found = protector.protect(near, who)
    protector.swap(vk.VeilBank(bank.veils.flip(0), bank.names, 51))
    filled = [torch.full(bank.veils.shape, 9, dtype=torch.uint8, device="cuda") for _ in range(8)]
    stream.synchronize()
    assert torch.equal(found.cpu(), value) and len(filled) == 8


def test_a_graph_keeps_the_veils_of_its_capture(protected):
    images, rows, bank, protector, value = protected
    near, who = images.cuda(), rows.cuda()
    protector.protect(near, who)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = protector.protect(near, who)
    protector.swap(vk.VeilBank(bank.veils.flip(0), bank.names, 51))
    filled = [torch.full(bank.veils.shape, 9, dtype=torch.uint8, device="cuda") for _ in range(8)]
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found.cpu(), value) and len(filled) == 8


def test_a_protector_on_the_gpu_serves_many_threads(protected):
    """Each by slots of its own; persons come and go on the device."""
    from concurrent.futures import ThreadPoolExecutor

    images, rows, bank, protector, value = protected

    def serve(_):
        with vk.use_backend("triton"):
            return all(torch.equal(protector.protect(images, rows), value) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(serve, range(8)))
    protector.add(vk.VeilBank(bank.veils[:1].clone(), ["e"], 51))
    protector.remove("a")
    assert protector.bank.veils.is_cuda and torch.equal(
        protector.protect(images[:1], "e"), protector.protect(images[:1], [3])
    )
    with pytest.raises(ValueError, match="images must be on cpu, with the veils, got cuda"):
        vk.Protector(bank).protect(images.cuda(), rows)
