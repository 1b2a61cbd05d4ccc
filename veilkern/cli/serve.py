"""veilkern serve: a bank behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import veilkern as vk
from veilkern.cli._shared import Bgr, Mean, Range, Size, Std, errors, input_of, key_files, key_path, refuse
from veilkern.errors import BackendError, OutputError
from veilkern.serving.settings import ROLES, TOKEN, Settings, token

LIMITS, MODEL = "Limits", "Crafting"


def _limit(default: Any, what: str, **options: Any) -> Any:
    return typer.Option(help=what, rich_help_panel=LIMITS, **options)


def serve(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The veil bank.")],
    key_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--key-file", help="The master key of a sealed bank (several, of a merged one); default: BANK.key, craft's."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; default: this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    role: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(ROLES)}; may be repeated. Default: all, or protect where there is no {TOKEN}."),
    ] = None,
    token_everywhere: Annotated[
        bool, typer.Option("--token-everywhere", help="Protect and metrics want the token, too.")
    ] = False,
    open_protect: Annotated[
        bool,
        typer.Option(
            "--open-protect",
            help="Protect wants no token even where the bank blends, whose veils are then anybody's to compute.",
        ),
    ] = False,
    audit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of `veilkern audit`, for the page.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the veils are: cpu, cuda, cuda:1.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="The network to craft veils with, that of the bank.", rich_help_panel=MODEL),
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option(help="Of each --model, as of craft.", rich_help_panel=MODEL)
    ] = None,
    input_size: Size = 112,
    input_mean: Mean = None,
    input_std: Std = None,
    input_bgr: Bgr = False,
    input_range: Range = None,
    batch_window: Annotated[
        float, _limit(0, "Milliseconds that a photo waits for others to share a call with.", min=0, max=1000)
    ] = 0.0,
    batch_photos: Annotated[int, _limit(64, "Photos of one call.", min=1)] = 64,
    queue: Annotated[int, _limit(4096, "Photos that may wait, of each worker.", min=1)] = 4096,
    connections: Annotated[int, _limit(1024, "Open at a time, of each worker.", min=1)] = 1024,
    threads: Annotated[int, _limit(4, "That read and write PNG, of each worker.", min=1)] = 4,
    body_mib: Annotated[int, _limit(32, "Of one request, MiB.", min=1, max=1024)] = 32,
    memory_mib: Annotated[int, _limit(1024, "Of all requests that a worker holds, MiB.", min=1)] = 1024,
    photos: Annotated[int, _limit(64, "Of one request.", min=1)] = 64,
    pixels: Annotated[int, _limit(4 << 20, "Of the largest photo that is decoded.", min=1)] = 4 << 20,
    body_seconds: Annotated[float, _limit(20.0, "For a body to come, and for an answer to be taken.", min=0.01)] = 20.0,
    deadline: Annotated[float, _limit(30.0, "Seconds for a request to be served.", min=0.01)] = 30.0,
    stop_seconds: Annotated[int, _limit(30, "For what is in flight, when the service is told to stop.", min=0)] = 30,
    otel: Annotated[bool, typer.Option("--otel", help="Trace by OpenTelemetry, set up by its own variables.")] = False,
) -> None:
    """Protect and recover over HTTP, with a page to try it."""
    from veilkern.serving import missing

    if lacking := missing():
        raise BackendError(f"serve needs {', '.join(lacking)}: pip install 'veilkern[serve]'")
    roles = tuple(role or (ROLES if token() else ROLES[:1]))
    if not token() and not role:
        errors.print(
            f"[yellow]note[/] {TOKEN} is not set: this service protects, and neither recovers nor changes veils"
        )
    if not model:
        refuse("is for --model", weight=weight, input_size=input_size != 112, input_mean=input_mean)
        refuse("is for --model", input_std=input_std, input_bgr=input_bgr, input_range=input_range)
    if "recover" not in roles:
        refuse("is for the role recover", audit=audit)
    if "veils" not in roles:
        refuse("is for the role veils", model=model)
    settings = Settings(
        bank=bank,
        key_files=tuple(_keys(bank, key_file, bool(model))),
        roles=roles,
        token_everywhere=token_everywhere,
        open_protect=open_protect,
        model=tuple(model or ()),
        weights=tuple(weight or ()),
        model_input=input_of(input_size, input_mean, input_std, input_bgr, input_range) if model else {},
        audit=audit,
        device=device,
        workers=workers,
        window_ms=batch_window,
        most=batch_photos,
        queue=queue,
        connections=connections,
        threads=threads,
        body_mib=body_mib,
        memory_mib=memory_mib,
        photos=photos,
        pixels=pixels,
        body_seconds=body_seconds,
        deadline=deadline,
        stop_seconds=stop_seconds,
        otel=otel,
    )
    _run(settings, host, port)


def _keys(bank: Path, given: list[Path] | None, crafts: bool) -> list[Path]:
    """Files of the master keys: of a sealed bank all, of one that blends that to craft with."""
    scheme = vk.VeilBank.load(bank, mmap=True, check=False).scheme
    if scheme == "blend" and crafts:
        return given or ([key_path(bank)] if key_path(bank).exists() else [])
    return key_files(scheme, bank, given) or []


def _run(settings: Settings, host: str, port: int) -> None:
    """Look at everything that could be wrong, then serve."""
    from veilkern.serving.server import bound, serve

    _check(settings)
    try:
        listener = bound(host, port)
    except OSError as error:
        raise OutputError(f"{host}:{port}: cannot be listened at: {error.strerror or error}") from error
    with listener:
        address = f"[{host}]" if ":" in host else host
        errors.print(
            f"http://{escape(address)}:{listener.getsockname()[1]}/ serves {escape(str(settings.bank))} "
            f"({', '.join(settings.roles)})",
            soft_wrap=True,
            highlight=False,
        )
        serve(settings, listener)


def _check(settings: Settings) -> None:
    """Bank, keys, network and audit are looked at here, where errors are told in one line, and not by each worker."""
    from veilkern.serving.served import Source
    from veilkern.serving.state import refuse_open_keys

    if settings.audit is not None and not (settings.audit / "audit.json").is_file():
        raise OutputError(f"{settings.audit}: no audit.json in it; `veilkern audit` writes one")
    if settings.otel:
        from veilkern.serving.tracing import export

        export()
    refuse_open_keys(settings, Source(settings).now.bank)
    if settings.model:
        from veilkern.serving.crafting_job import check_network

        check_network(settings)
