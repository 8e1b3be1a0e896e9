"""An engine whose every logits row is noted, to compare runs to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamaherd import EngineConfig, SamplingParams, _core


class RecordedEngine:
    """A deterministic engine without a thread: whoever made it drives it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._record = _core.LogitsRecord()
        config = EngineConfig(deterministic=True, **options)._to_core()
        self.engine = _core.BatchEngine(
            str(path), config, _core.LoadProgress(), False, self._record
        )
        self.outputs: dict[int, list[int]] = {}  # by request id

    def submit(self, tokens: list[int], n_tokens: int, **params: Any) -> int:
        """Queues a request for so many tokens, greedy unless told otherwise."""
        sampling = {"temperature": 0, "ignore_eos": True, **params}
        core_params = SamplingParams(max_tokens=n_tokens, **sampling)._to_core()
        request = self.engine.submit(tokens, core_params)
        self.outputs[request] = []
        return request

    def step(self) -> bool:
        more = self.engine.step()
        for delta in self.engine.drain(0):
            assert not delta.error
            self.outputs[delta.request_id] += delta.token_ids
        return more

    def finish(self) -> None:
        """Runs what is left, and frees the model."""
        while self.step():
            pass
        self.metrics = self.engine.metrics()
        self.info = self.engine.model_info()
        self.engine.close()

    def rows(self) -> dict[int, list[int]]:
        """Hash of a token prefix -> hashes of the logits rows computed from it."""
        return self._record.rows()


def assert_rows_are_those_of(run: RecordedEngine, alone: RecordedEngine) -> None:
    """Each row of `run` is, to the bit, the one that `alone` computed from the same tokens."""
    rows, expected = run.rows(), alone.rows()
    assert rows
    assert rows.keys() <= expected.keys()
    for prefix, hashes in rows.items():
        assert set(hashes) == set(expected[prefix])
