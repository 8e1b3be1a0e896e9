"""``llamaherd serve``: an OpenAI-compatible server."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
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
            help="GGUF files, catalogue names, or hf:org/repo/file.gguf; NAME=... sets the name "
            "of a model."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; localhost: 127.0.0.1 and ::1.")
    ] = "localhost",
    port: Annotated[int, typer.Option(help="Port; 0: any free port.")] = 8000,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="JSON file of API keys. Alternative: keys in LLAMAHERD_API_KEYS."),
    ] = None,
    generate_key: Annotated[
        bool, typer.Option("--generate-key", help="Print a new API key and its hash, and exit.")
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Accept requests without an API key on any address.")
    ] = False,
    default_max_tokens: Annotated[
        int, typer.Option(help="max_tokens of chat requests that set none.")
    ] = 2048,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Limit, see docs/limits.md; repeatable."),
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Deadline of every request in seconds.")
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds for running requests to finish after SIGTERM.")
    ] = 30,
    stream_start: Annotated[
        float,
        typer.Option(
            help="Seconds after which a streamed response sends its headers at the latest."
        ),
    ] = 2,
    stream_keep_alive: Annotated[
        float,
        typer.Option(help="Seconds of silence after which a streamed response sends a comment."),
    ] = 10,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin (CORS) whose pages may call the server; repeatable."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name accepted by a server without API keys; repeatable."),
    ] = None,
    shared_cache: Annotated[
        bool,
        typer.Option("--shared-cache", help="Share cached prefixes between API keys."),
    ] = False,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    unload_after: Annotated[
        float | None, typer.Option(help="Unload a model after this many idle seconds.")
    ] = None,
    max_models_mib: Annotated[
        float | None, typer.Option(help="Maximum total file size of loaded models in MiB.")
    ] = None,
    restart_engine: Annotated[
        bool,
        typer.Option("--restart-engine", help="Reload a model after a fatal error of its engine."),
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of batch jobs and their files.")
    ] = None,
    strict_fields: Annotated[
        bool,
        typer.Option(
            "--strict-fields",
            help="Refuse fields of requests that would be accepted without effect.",
        ),
    ] = False,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and outputs to the log.")
    ] = False,
    pooling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[MODEL=]TYPE",
            help="Pooling type of embeddings, of all models or of one: mean, cls, last or rank. "
            "Overrides the model file's; repeatable.",
        ),
    ] = None,
    spm_infill: Annotated[
        bool,
        typer.Option(
            "--spm-infill",
            help="Fill in the middle with the suffix before the prefix, for models that were "
            "trained so.",
        ),
    ] = False,
    otel: Annotated[
        bool,
        typer.Option(
            "--otel", help="Trace requests; configured by the OTEL_... environment variables."
        ),
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
        stream_start_s=stream_start,
        stream_keep_alive_s=stream_keep_alive,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        shared_cache=shared_cache,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        data_dir=data_dir,
        strict_fields=strict_fields,
        log_prompts=log_prompts,
        spm_infill=spm_infill,
    )
    keys = KeyRing.load(api_keys)
    settings.require_guarded(bool(keys))
    config = limits.bound_queue(engine.to_config())
    weights = {**(config.tenant_weights or {}), **keys.weights}
    config = dataclasses.replace(config, tenant_weights=weights)
    named = [_named(model) for model in models or [options.default_model]]
    poolings = _poolings(pooling or (), [name for name, _ in named])
    specs = [ModelSpec(name, source, config, poolings.get(name)) for name, source in named]
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


def _poolings(given: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    """Pooling types by model name; one that names its model has precedence."""
    found: dict[str, str] = {}
    for option in sorted(given, key=lambda option: "=" in option):
        model, equals, pooling = option.rpartition("=")
        if equals and model not in models:
            raise typer.BadParameter(
                f"--pooling {option}: the server has no model {model!r}; it has {', '.join(models)}"
            )
        found |= dict.fromkeys([model] if equals else models, pooling)
    return found


def _named(model: str) -> tuple[str, str]:
    """Name and source of a model argument."""
    name, equals, source = model.partition("=")
    if equals:
        return name, source
    name = Path(model).stem if model.endswith(".gguf") else model
    # Names are sent as JSON: bytes of a file name that are not UTF-8 become \xNN.
    return os.fsencode(name).decode(errors="backslashreplace"), model
