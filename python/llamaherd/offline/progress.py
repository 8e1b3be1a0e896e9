"""Progress bars of prompt batches."""

from __future__ import annotations

from contextlib import AbstractContextManager

from llamaherd.request.result import RequestOutput


class Bar:
    """Counts finished requests and displays nothing."""

    def count(self, result: RequestOutput) -> None:
        pass


class RichBar(Bar, AbstractContextManager["RichBar"]):
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("generating", total=total, speed="")
        self._n_tokens = 0

    def __enter__(self) -> RichBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def count(self, result: RequestOutput) -> None:
        self._n_tokens += result.usage.completion_tokens
        elapsed = self._progress.tasks[0].elapsed or 0.0
        speed = f"{self._n_tokens / elapsed:.0f} tokens/s" if elapsed > 0 else ""
        self._progress.update(self._task, advance=1, speed=speed)
