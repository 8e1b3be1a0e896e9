"""An engine whose every logits row is noted, to compare runs to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamaherd import EngineConfig, FinishReason, SamplingParams, _core


class RecordedEngine:
    """An engine without a thread, deterministic unless told otherwise: whoever made it drives it.

    Guesses of `prompt_lookup` add rows by how long calls took, so it is off unless told otherwise.
    Only where `faults` says what goes wrong may a request end with an error.
    """

    def __init__(self, path: Path, faults: _core.FaultScript | None = None, **options: Any) -> None:
        self._record = _core.LogitsRecord()
        self._faults = faults
        defaults = {"deterministic": True, "prompt_lookup": False}
        config = EngineConfig(**{**defaults, **options})._to_core()
        self.engine = _core.BatchEngine(
            str(path), config, _core.LoadProgress(), False, self._record, None, faults
        )
        self.outputs: dict[int, list[int]] = {}  # by request id
        self.errors: dict[int, str] = {}  # of those that ended with one

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
            assert self._faults or not delta.error
            if delta.finish_reason == FinishReason.ERROR:
                self.errors[delta.request_id] = delta.error
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
        """Hash of a token prefix -> hashes of the logits rows computed from it.

        Rows that are not finite, which only faults make, are left out.
        """
        rows, tops = self._record.rows(), self.tops()
        finite = {}
        for prefix, hashes in rows.items():
            leads = [lead for _, lead in tops[prefix]]
            kept = [row for row, lead in zip(hashes, leads, strict=True) if lead == lead]
            if kept:
                finite[prefix] = kept
        return finite

    def tops(self) -> dict[int, list[tuple[int, float]]]:
        """Hash of a token prefix -> (likeliest token, its lead) of the rows computed from it."""
        return self._record.tops()


def assert_rows_are_those_of(run: RecordedEngine, alone: RecordedEngine) -> None:
    """Each row of `run` is, to the bit, the one that `alone` computed from the same tokens."""
    rows, expected = run.rows(), alone.rows()
    assert rows
    assert rows.keys() <= expected.keys()
    for prefix, hashes in rows.items():
        assert set(hashes) == set(expected[prefix])
