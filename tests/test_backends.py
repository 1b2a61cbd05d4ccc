"""Choice of backend: by order, by name, and what is said when there is none."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

import veilkern as vk
from veilkern import backends, ops, reference
from veilkern.errors import BackendError


def test_every_backend_is_listed_with_ops_or_a_reason():
    listed = {b.name: b for b in vk.list_backends()}
    assert list(listed) == ["cuda", "triton", "cpu", "reference"]
    assert all(bool(b.ops) if b.available else bool(b.reason) for b in listed.values())
    served = {name.replace("_gradient", "") for name in ops.__all__}  # an op's gradient has the op's launcher
    assert listed["reference"].available and served == set(listed["reference"].ops)
    for name in ("cpu", "triton", "cuda"):
        if listed[name].available:
            assert served == {*listed[name].ops, *listed[name].lacks}


def test_by_name():
    with vk.use_backend("reference") as chosen:
        assert chosen.name == "reference" and backends.select("blend", torch.zeros(1)) is chosen.ops["blend"]
    with pytest.raises(BackendError, match="no backend 'nothing'; there are"):
        vk.use_backend("nothing").__enter__()
    for absent in (b.name for b in vk.list_backends() if not b.available):
        with pytest.raises(BackendError, match=f"{absent} is not available: "):
            vk.use_backend(absent).__enter__()
    with pytest.raises(BackendError, match="no such op"):
        backends.select("nothing", torch.zeros(1))


def test_threads_by_number():
    if not {b.name: b for b in vk.list_backends()}["cpu"].available:
        pytest.skip("the C++ module is not built")
    images = torch.rand(40, 3, 60, 60)
    wanted = ops.block_variance(images)
    with vk.use_backend("cpu", threads=3):
        assert backends.thread_count() == 3 and torch.equal(ops.block_variance(images), wanted)
        with vk.use_backend("cpu"):
            assert backends.thread_count() == torch.get_num_threads()
    assert backends.thread_count() == torch.get_num_threads()
    with vk.use_backend("cpu", threads=torch.get_num_threads() + 1):
        pass
    assert backends.choice() == (None, None) and backends.thread_count() == torch.get_num_threads()
    with pytest.raises(KeyError), vk.use_backend("cpu", threads=torch.get_num_threads() + 2):
        raise KeyError
    assert backends.choice() == (None, None) and backends.thread_count() == torch.get_num_threads()
    for name, threads in (("cpu", 0), ("cpu", 1.5), ("reference", 2)):
        with pytest.raises(ValueError, match="threads must be"):
            vk.use_backend(name, threads=threads).__enter__()


LOSSES = {
    "block_variance": lambda x: ops.block_variance(x).sum(),
    "ssim": lambda x: ops.ssim(x, x.detach().flip(0)).sum(),
}


@pytest.mark.parametrize("op", LOSSES)
def test_the_gradient_is_served_by_the_backend_of_the_op(op, monkeypatch):
    """Wherever backward runs: after the block, in a block of another backend, in another thread (as autograd does for
    tensors on a GPU)."""
    served = []

    def spy(name, plain):
        return lambda *given: served.append((name, backends.choice())) or plain(*given)

    for backend in vk.list_backends():
        if op in backend.ops:
            monkeypatch.setitem(backend.ops, op, spy(backend.name, backend.ops[op]))
    names = [b.name for b in vk.list_backends() if op in b.ops]
    for name in names:
        for other in names:
            x = torch.rand(2, 3, 12, 12, requires_grad=True)
            with vk.use_backend(name, threads=3 if name == "cpu" else None):
                loss = LOSSES[op](x)

            def backward(loss=loss, other=other):
                with vk.use_backend(other):
                    loss.backward()
                    assert backends.choice() == (other, None)

            thread = threading.Thread(target=backward)
            thread.start()
            thread.join()
            assert x.grad is not None
            calls = 1 if op == "ssim" else 2  # the op and its gradient; ssim makes it together with the score
            assert served == [(name, (name, 3 if name == "cpu" else None))] * calls
            served.clear()


def test_a_backend_asked_for_that_lacks_the_op(monkeypatch):
    cpu = {b.name: b for b in vk.list_backends()}["cpu"]
    if not cpu.available:
        pytest.skip("the C++ module is not built")
    monkeypatch.delitem(cpu.ops, "ssim")
    with (
        vk.use_backend("cpu"),
        pytest.raises(BackendError, match=r"ssim: no backend serves this call \(cpu: no such op\)"),
    ):
        ops.ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_what_a_backend_does_not_support_goes_to_the_next_and_is_told(monkeypatch):
    """By order the next one that supports the call serves it; by name the reason is in the error."""
    listed = {b.name: b for b in vk.list_backends()}
    if not listed["cpu"].available:
        pytest.skip("the C++ module is not built")
    asked = []

    def limit(images, veils, rows, a, lossless, out):
        asked.append((tuple(images.shape), a, lossless))
        return "serves no more than 2 photos" if len(images) > 2 else None

    monkeypatch.setitem(listed["cpu"].limits, "blend", limit)
    images = torch.arange(3 * 48, dtype=torch.uint8).view(3, 3, 4, 4)
    rows = torch.zeros(3, dtype=torch.int64)
    arguments = (images, images[:1], rows, 51, False, torch.empty_like(images))
    assert backends.select("blend", *arguments) is listed["reference"].ops["blend"]
    few = (images[:2], images[:1], rows[:2], 51, False, torch.empty_like(images[:2]))
    assert backends.select("blend", *few) is listed["cpu"].ops["blend"]
    assert torch.equal(ops.blend(images, 255 - images, rows, 51), reference.blend(images, 255 - images, rows, 51))
    assert asked == [((3, 3, 4, 4), 51, False), ((2, 3, 4, 4), 51, False), ((3, 3, 4, 4), 51, False)]
    with vk.use_backend("cpu"), pytest.raises(BackendError, match=r"blend: .*\(cpu: serves no more than 2 photos\)"):
        ops.blend(images, 255 - images, rows, 51)


def test_what_a_backend_lacks_is_told():
    backend = backends.Backend("other", ops={"blend": ops.blend}, lacks={"ssim": "needs numbers of 64 bits"})
    assert backend.supports("ssim", torch.zeros(1)) == "needs numbers of 64 bits"
    assert backend.supports("blend", torch.zeros(1)) is None


def test_a_device_that_a_backend_does_not_serve():
    listed = {b.name: b for b in vk.list_backends()}
    meta = torch.zeros(1, device="meta")
    if listed["cpu"].available:
        assert listed["cpu"].supports("blend", meta) == "serves tensors on cpu"
    assert listed["reference"].supports("blend", meta) is None
    for backend in (b for b in listed.values() if not b.available):
        assert backend.supports("blend", meta) == backend.reason
    assert listed["reference"].supports("nothing", meta) == "no such op"


def test_without_the_native_module():
    """What a machine without a compiler gets: everything works, and the reason is told."""
    code = """
import sys
sys.modules["veilkern._cpu"] = None
import torch, veilkern as vk
cpu = {b.name: b for b in vk.list_backends()}["cpu"]
assert not cpu.available and "install a compiler" in cpu.reason, cpu
x = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
from veilkern import ops
hidden = ops.blend(x, 255 - x, torch.zeros(1, dtype=torch.int64), 51)
back = ops.recover(hidden, 255 - x, torch.zeros(1, dtype=torch.int64), 51)
assert (back.int() - x.int()).abs().max() <= 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_importing_touches_nothing_heavy():
    code = (
        "import sys, veilkern;"
        "heavy = {'triton', 'matplotlib', 'typer', 'rich', 'jinja2', 'scipy', 'veilkern._cpu', 'veilkern._cuda'};"
        "heavy = {*heavy, 'veilkern_cuda_emulated'} & set(sys.modules);"
        "import torch; assert not heavy and not torch.cuda.is_initialized(), heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
