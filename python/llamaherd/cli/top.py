"""``llamaherd top``: live metrics of a running server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llamaherd.cli import options

if TYPE_CHECKING:
    from llamaherd.server_metrics_client import MetricsDelta

_WIDTH = 24  # of bars
_NONE = "-"
_PARTS = ("decode", "prefill", "sample", "host")


def top(
    url: Annotated[str, typer.Argument(help="The server's address.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAMAHERD_API_KEY", help="API key of the server.")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between readings.", min=0.1)] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print metrics of one interval and exit.")
    ] = False,
) -> None:
    """Show live metrics of a running server; Ctrl-C exits."""
    try:
        from llamaherd.server_metrics_client import MetricsClient, ScrapeError, readings
    except ModuleNotFoundError as error:
        options.needs_extra(error, "serve")
    server = MetricsClient(url, api_key)
    console = Console(highlight=False)
    if once:
        before = server.read()
        time.sleep(interval)
        console.print(_view(server.url, server.changed_since(before)))
        return
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        shown: RenderableType = ""
        for reading in readings(server, interval):
            if isinstance(reading, ScrapeError):
                live.update(Group(Text(str(reading), style="bold red"), shown), refresh=True)
            else:
                shown = _view(server.url, reading)
                live.update(shown, refresh=True)


def _view(url: str, change: MetricsDelta) -> RenderableType:
    models = change.after.values_of("num_requests_running", "model_name")
    panels: list[RenderableType] = [_model(model, change) for model in models]
    return Group(_title(url, change), *(panels or ["no model is loaded"]), _server(change))


def _title(url: str, change: MetricsDelta) -> Text:
    of = f", over {change.seconds:.1f} s" if change.before else ""
    return Text.assemble(("llamaherd top  ", "bold"), f"{url}  {time.strftime('%H:%M:%S')}{of}")


def _model(model: str, change: MetricsDelta) -> Panel:
    """Metrics of one model."""
    table = _grid()
    table.add_row("tokens/s", _throughput(model, change))
    for name, metric in (
        ("first token", "time_to_first_token_seconds"),
        ("between tokens", "inter_token_latency_seconds"),
    ):
        values = [change.quantile(q, metric, model_name=model) for q in (0.5, 0.95)]
        table.add_row(name, f"p50 {_time(values[0])}   p95 {_time(values[1])}")
    table.add_row("requests", _requests(model, change))
    table.add_row("batch", _batch(model, change))
    table.add_row("cache hits", _hits(model, change))
    table.add_row("KV cells", _cells(model, change))
    table.add_row("step time", _steps(model, change))
    table.add_row("trouble", _trouble(model, change))
    good = change.after.value("engine_ok", model_name=model)
    state = "" if good is None or good else "  stuck or dead"
    title = Text.assemble(model, (state, "bold red"))
    return Panel(table, title=title, title_align="left", expand=False)


def _server(change: MetricsDelta) -> Panel:
    """Metrics of the server."""
    table = _grid()
    own = change.rates_by("http_requests_total", "status", path="/metrics")
    rates = change.rates_by("http_requests_total", "status")
    answers = {status: rate - own.get(status, 0.0) for status, rate in sorted(rates.items())}
    parts = [
        Text(f"{status}: {rate:.2f}", style="" if status.startswith(("1", "2", "3")) else "red")
        for status, rate in answers.items()
        if rate > 1e-9
    ]
    table.add_row("HTTP responses/s", Text("   ").join(parts) if parts else _NONE)
    waiting = [
        f"class {sample.labels.get('priority')}: {sample.value:.0f}"
        for sample in change.after.of("requests_without_token")
        if sample.value
    ]
    table.add_row("no token yet", "   ".join(waiting) or _NONE)
    memory = change.after.value("process_resident_memory_bytes")
    cores = change.rate("process_cpu_seconds_total")
    table.add_row("process", f"{_number(memory, 1 / (1 << 20))} MiB   {_number(cores, 1, 2)} cores")
    return Panel(table, title="server", title_align="left", expand=False)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(min_width=60)
    return table


def _throughput(model: str, change: MetricsDelta) -> str:
    out = change.rate("generation_tokens_total", model_name=model)
    prompt = change.rate("prefill_rows_total", model_name=model)
    found = change.rate("prefix_cache_hits_total", model_name=model)
    return (
        f"{_number(out, 1, 1)} out   {_number(prompt, 1, 1)} prompt computed"
        f"   {_number(found, 1, 1)} found"
    )


def _requests(model: str, change: MetricsDelta) -> str:
    running, waiting, places = (
        _number(change.after.value(name, model_name=model))
        for name in ("num_requests_running", "num_requests_waiting", "max_num_seqs")
    )
    return f"{running} of {places} running   {waiting} waiting"


def _batch(model: str, change: MetricsDelta) -> Text | str:
    """Decode rows per step, as a share of max_num_seqs."""
    rows = change.part("decode_rows_total", "decode_calls_total", model_name=model)
    places = change.after.value("max_num_seqs", model_name=model)
    return _NONE if rows is None or not places else _bar([(rows / places, "green")])


def _hits(model: str, change: MetricsDelta) -> Text | str:
    hits = ("prefix_cache_hits_total", "prefix_cache_queries_total")
    part = change.part(*hits, model_name=model)
    if part is not None:
        return _bar([(part, "green")])
    ever = change.after.value("prefix_cache_hit_rate", model_name=model)
    return _NONE if ever is None else f"{ever:.0%} since the start"


def _cells(model: str, change: MetricsDelta) -> Text | str:
    """Cells of running requests, of cached prefixes, and free."""
    cells, used, spare = (
        change.after.value(name, model_name=model)
        for name in ("kv_cells", "kv_cells_used", "kv_cells_reclaimable")
    )
    if not cells or used is None or spare is None:
        return _NONE
    bar = _bar([((used - spare) / cells, "red"), (spare / cells, "yellow")], percent=False)
    return bar.append(f" {used - spare:.0f} needed, {spare:.0f} cached of {cells:.0f}")


def _steps(model: str, change: MetricsDelta) -> str:
    rates = {
        part: change.rate("step_seconds_total", model_name=model, part=part) for part in _PARTS
    }
    busy = sum(rate for rate in rates.values() if rate is not None)
    if busy <= 0:
        return _NONE
    parts = ", ".join(f"{part} {(rate or 0) / busy:.0%}" for part, rate in rates.items())
    return f"{busy:.0%} busy: {parts}"


def _trouble(model: str, change: MetricsDelta) -> Text | str:
    """Preemptions, evictions and failures in the interval."""
    counted = {
        "preempted": change.increase("num_preemptions_total", model_name=model),
        "shed": change.increase("requests_shed_total", model_name=model),
        "tokens evicted": change.increase("prefix_cache_evictions_total", model_name=model),
        "calls failed": change.increase("engine_errors_total", model_name=model),
    }
    parts = [f"{n:.0f} {name}" for name, n in counted.items() if n]
    return Text(", ".join(parts), style="red") if parts else _NONE


def _bar(parts: list[tuple[float, str]], *, percent: bool = True) -> Text:
    """A bar of fractions of 1, each with its colour."""
    bar, length = Text(), 0
    total = 0.0
    for part, style in parts:
        total += part
        end = min(_WIDTH, max(length, round(total * _WIDTH)))
        bar.append("█" * (end - length), style=style)
        length = end
    bar.append("░" * (_WIDTH - length), style="dim")
    return bar.append(f" {total:.0%}") if percent else bar


def _number(value: float | None, scale: float = 1.0, digits: int = 0) -> str:
    return _NONE if value is None else f"{value * scale:,.{digits}f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
