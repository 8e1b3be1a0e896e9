"""What requests that wait take."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from llamaherd import BatchEngine, EngineConfig, SamplingParams

MOST_MIB = 200  # of 12,800 outputs; a copy of the biases for each would be 4.7 GiB


def resident_mib() -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_outputs_share_the_prompt_and_its_parameters(model_path: Path) -> None:
    config = EngineConfig(n_ctx=512, max_seqs=2, n_threads=1, warmup=False)
    with BatchEngine(model_path, config, threaded=False) as engine:
        n_vocab = engine.model_info()["n_vocab"]
        params = SamplingParams(
            n=128, logit_bias=dict.fromkeys(range(n_vocab), 1.0), stop=["x"] * 9
        )
        prompt = engine.tokenize("word " * 250)
        before = resident_mib()
        streams = [engine.submit(prompt, params) for _ in range(100)]
        engine.step()
        assert resident_mib() - before < MOST_MIB
        for stream in streams:
            stream.cancel()
        while engine.step():
            pass
