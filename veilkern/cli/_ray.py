"""craft and protect with --ray: the same by the workers of a Ray cluster, of datasets too that no one process takes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._key import KeyBeside
from veilkern.cli._shared import (
    CHECKED,
    Terminated,
    check_network,
    console,
    errors,
    finish,
    key_files,
    load_networks,
    sigterm_as_ctrl_c,
)
from veilkern.datasets.craft import read_job, shards_of
from veilkern.datasets.source import Reading, people_of, units_of
from veilkern.errors import OutputError
from veilkern.veils.folder_plan import Outcome


def cluster(ray: str, workers: int | None, cores: int, gpus: float) -> vk.Cluster:
    return vk.Cluster(None if ray == "local" else ray, workers, cores, gpus)


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """Ctrl-C and SIGTERM end a job, which the same command takes up."""
    with sigterm_as_ctrl_c():
        try:
            yield
        except KeyboardInterrupt as error:
            errors.print("[red]interrupted; what is finished stays: the same command goes on[/]", soft_wrap=True)
            raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None


def craft(
    faces: Path,
    nets: list[str],
    weight: list[float] | None,
    input_spec: tuple[Any, ...],
    config: vk.CraftConfig,
    *,
    out: Path,
    key_file: Path | None,
    where: vk.Cluster,
    json_output: bool,
    check: bool,
    **options: Any,
) -> None:
    """veilkern craft --ray: options are those of `craft_dataset`."""
    if key_file is None and config.scheme == "blend" and config.seed is None:
        raise OutputError("--ray needs --key-file: its workers are many processes, which share the key")
    make = functools.partial(load_networks, [absolute(net) for net in nets], weight, *input_spec)
    network = make()
    reading = Reading(network.input.size, options["resize"], options["convert"])
    first = people_of(units_of(faces, 1, [])[0], reading, [], [])  # PhotoError where there is nothing
    if check:
        check_network(network, itertools.islice(first, CHECKED), options["threads"])
    key, beside = key_file, KeyBeside(out, None) if key_file is None and config.scheme == "sealed" else None
    if beside is not None and beside.keep(beside.found(config), config) is not None:
        key = beside.path
    started = time.monotonic()
    try:
        found = vk.craft_dataset(make, faces, config, out=out, key=key, cluster=where, **options)
    finally:
        if beside is not None and not out.exists() and not shards_of(out).exists():
            beside.forget()  # no veil came of it
    seconds = round(time.monotonic() - started, 2)
    place = f"{found.people} veils in {out}"
    if options["join"] and found.bank is None:
        place = f"{found.people} veils in shards, not joined to {out}"
    elif not options["join"]:
        place = f"{found.people} veils in {len(found.shards)} banks in {out}"
    if json_output:
        written = found.bank is not None or not options["join"]
        about: dict[str, Any] = {"out": str(out) if written else None, "seconds": seconds}
        about |= {"by_autograd": found.by_autograd, "veils": found.people, "crafted": found.crafted}
        about["shards"] = [str(shard) for shard in found.shards]
        print(json.dumps(about, indent=1))
    else:
        console.print(f"{escape(place)}, {found.crafted} of them new ({seconds:.1f} s)", soft_wrap=True)
    return finish(found.problems, found.notices)


def absolute(net: str) -> str:
    """A network's source with its file's whole path: workers may be in another folder."""
    before, _, after = net.rpartition(":")
    for file, parts in ((net, ("", net, "")), (before, ("", before, f":{after}")), (after, (f"{before}:", after, ""))):
        if file and Path(file).exists():
            return f"{parts[0]}{Path(parts[1]).absolute()}{parts[2]}"
    return net


def protect(
    faces: Path, veils: Path, out: Path, key_file: list[Path] | None, where: vk.Cluster, **options: bool
) -> tuple[str, Outcome]:
    """veilkern protect --ray; the scheme, and what became of the photos."""
    scheme = _scheme_of(veils)
    files = key_files(scheme, veils, key_file)
    return scheme, vk.protect_dataset(faces, veils, out, key=files, cluster=where, **options)


def _scheme_of(veils: Path) -> str:
    """Of a bank, or of a folder of shards."""
    if veils.is_dir():
        return read_job(veils)["config"].get("scheme", "blend")
    return vk.VeilBank.load(veils, mmap=True, check=False).scheme
