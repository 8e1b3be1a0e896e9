"""``llamaherd serve``: an OpenAI-compatible server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamaherd.cli import options

if TYPE_CHECKING:
    from llamaherd.server.observability.spans import Spans


@options.with_engine_options
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="GGUF files, names of the catalogue, or hf:org/repo/file.gguf; "
            "NAME=... gives one a name."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option(help="JSON file of keys; or keys in LLAMAHERD_API_KEYS.")
    ] = None,
    generate_key: Annotated[
        bool, typer.Option("--generate-key", help="Print a new key and its hash, and end.")
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Whoever reaches the port needs no key.")
    ] = False,
    default_max_tokens: Annotated[
        int, typer.Option(help="Output tokens of a chat answer that says nothing else.")
    ] = 2048,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A bound of docs/limits.md; repeatable."),
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Seconds a request may take.")
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests get at SIGTERM.")
    ] = 30,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may call; repeatable.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Name that clients without keys may call the server by; repeatable."),
    ] = None,
    shared_cache: Annotated[
        bool,
        typer.Option("--shared-cache", help="Requests of different keys share cached prefixes."),
    ] = False,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    unload_after: Annotated[
        float | None, typer.Option(help="Unload a model unused for so many seconds.")
    ] = None,
    max_models_mib: Annotated[
        float | None, typer.Option(help="Size of loaded models' files together.")
    ] = None,
    restart_engine: Annotated[
        bool,
        typer.Option("--restart-engine", help="Load a model again whose engine has stopped."),
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of batch jobs and their files.")
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.")
    ] = False,
    otel: Annotated[
        bool,
        typer.Option("--otel", help="Trace requests, as the OTEL_... variables say where to."),
    ] = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Serve models over an OpenAI-compatible API."""
    try:
        from llamaherd.server import ModelPool, ModelSpec, ServerSettings, create_app
        from llamaherd.server.access.api_keys import KeyRing, digest_of
        from llamaherd.server.access.api_keys import generate_key as make_key
        from llamaherd.server.common.limits import Limits
        from llamaherd.server.observability.json_logs import set_up_logs
        from llamaherd.server.server_process import Server
    except ModuleNotFoundError as error:
        options.needs_extra(error, "serve")
    if generate_key:
        key = make_key()
        print(f"key   {key}\nhash  {digest_of(key)}")
        return
    limits = Limits.parse(limit or ())
    settings = ServerSettings(
        host=host,
        port=port,
        no_auth=no_auth,
        default_max_tokens=default_max_tokens,
        limits=limits,
        request_timeout_s=request_timeout,
        drain_timeout_s=drain_timeout,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        shared_cache=shared_cache,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        data_dir=data_dir,
        log_prompts=log_prompts,
    )
    keys = KeyRing.load(api_keys)
    settings.require_guarded(bool(keys))
    config = limits.bound_queue(engine.to_config())
    weights = {**(config.tenant_weights or {}), **keys.weights}
    config = dataclasses.replace(config, tenant_weights=weights)
    specs = [ModelSpec(*_named(model), config) for model in models or [options.default_model]]
    set_up_logs()
    spans = _otel() if otel else None
    pool = ModelPool(
        specs, unload_after_s=unload_after, max_mib=max_models_mib, restart=restart_engine
    )
    server = Server(create_app(pool, settings, keys, spans=spans), settings)
    server.run()
    if not server.started:
        raise typer.Exit(1)


def _otel() -> Spans:
    try:
        from llamaherd.server.observability.otel import OtelSpans
    except ModuleNotFoundError as error:
        options.needs_extra(error, "otel")
    return OtelSpans()


def _named(model: str) -> tuple[str, str]:
    """What clients call a model, and where it is."""
    name, equals, source = model.partition("=")
    if equals:
        return name, source
    return (Path(model).stem if model.endswith(".gguf") else model), model
