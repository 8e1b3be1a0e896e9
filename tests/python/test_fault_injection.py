"""llama.cpp itself fails: the faulty request ends, the others' outputs change in no bit.

Graphs stop at a node, calls run out of memory behind some of their rows, and NaN stands in the
cells of the real cache: csrc/llama/testing/faulty_backend.h.
"""

from __future__ import annotations

import ctypes
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from llamaherd import _core
from llamaherd.cli.demo import QUESTIONS
from recorded import RecordedEngine, assert_rows_are_those_of

pytestmark = pytest.mark.slow

KINDS = ["plain", "sliding_window", "recurrent", "hybrid"]
CURSED = "the decode call failed: a cursed token"
POISONED = "its logits are not finite, also when computed alone"


class Herd(RecordedEngine):
    """An engine that things go wrong in, for one prompt list after the other."""

    def __init__(self, path: Path, n_nodes: int, **options: Any) -> None:
        self.script = _core.FaultScript()
        self.n_nodes = n_nodes  # of the graph of one ubatch
        super().__init__(path, self.script, warmup=False, n_threads=1, **options)

    def serve(self, prompts: list[list[int]], n_steps: int = 2) -> list[list[int]]:
        """The outputs of requests that come n_steps apart; the last of them comes when all is done.

        `failed` then has the message of each that ended with an error, by its place.
        """
        self.engine.clear_cache()
        before = self.engine.metrics().as_dict()
        requests = []
        for i, prompt in enumerate(prompts):
            if i == len(prompts) - 1:
                while self.step():
                    pass
            requests.append(self.submit(prompt, n_output(i)))
            for _ in range(n_steps):
                self.step()
        while self.step():
            pass
        self.script.clear()
        after = self.engine.metrics().as_dict()
        self.failed = {i: self.errors[r] for i, r in enumerate(requests) if r in self.errors}
        self.count = {name: after[name] - before[name] for name in after if name.startswith("n_")}
        return [self.outputs[request] for request in requests]

    def fail_at_random(self, seed: int, n_faults: int, n_calls: int) -> None:
        """Aborts, and failures that are no two in a row: what fails alone twice in a row ends."""
        rng = random.Random(seed)
        calls = sorted(rng.sample(range(n_calls), n_faults))
        for before, call in zip([-2, *calls], calls, strict=False):
            at = self.script.n_calls + call
            if call == before + 1 or rng.random() < 0.5:
                self.script.abort(at, rng.randrange(self.n_nodes))
            else:
                self.script.fail(at, rng.randrange(24))


def n_output(place: int) -> int:
    return 3 + place % 4


def alone(path: Path, prompts: list[list[int]]) -> RecordedEngine:
    """Each of them with the engine to itself, without a cache and undisturbed."""
    run = RecordedEngine(
        path, n_ctx=1024, max_seqs=1, prefix_cache=False, warmup=False, n_threads=1
    )
    for i, prompt in enumerate(prompts):
        run.submit(prompt, n_output(i))
    run.finish()
    return run


def assert_only_these_failed(
    herd: Herd, outputs: list[list[int]], undisturbed: RecordedEngine, failed: dict[int, str]
) -> None:
    assert herd.failed == failed
    for i, (output, expected) in enumerate(zip(outputs, undisturbed.outputs.values(), strict=True)):
        assert output == ([] if i in failed else expected)
    assert_rows_are_those_of(herd, undisturbed)


# The default model.


@pytest.fixture(scope="module")
def herd(model_path: Path) -> Herd:
    return Herd(model_path, 500, n_ctx=2048, max_seqs=4, token_budget=64)


@pytest.fixture(scope="module")
def prompts(herd: Herd) -> list[list[int]]:
    """Of different lengths; some begin alike."""
    texts = ["Be brief. " + text if i % 2 else text for i, text in enumerate(QUESTIONS[:6])]
    prompts = [herd.engine.tokenize(text, True, True) for text in texts]
    assert len({len(prompt) for prompt in prompts}) > 3
    return prompts


@pytest.fixture(scope="module")
def undisturbed(model_path: Path, prompts: list[list[int]]) -> RecordedEngine:
    return alone(model_path, prompts)


@pytest.fixture(scope="module")
def strange(herd: Herd) -> int:
    """A token that no prompt has."""
    (token,) = herd.engine.tokenize(" zebra", False, False)[:1]
    return token


@pytest.mark.parametrize("seed", [1, 2])
def test_graphs_that_stop_at_any_node_and_memory_that_runs_out_change_no_bit(
    herd: Herd, prompts: list[list[int]], undisturbed: RecordedEngine, seed: int
) -> None:
    n_aborted, n_failed = herd.script.n_aborted, herd.script.n_failed
    herd.fail_at_random(seed, n_faults=8, n_calls=20)
    outputs = herd.serve(prompts)
    assert_only_these_failed(herd, outputs, undisturbed, {})
    assert herd.count["n_aborted"] == herd.script.n_aborted - n_aborted > 0
    assert herd.count["n_failed"] == herd.script.n_failed - n_failed > 0
    assert herd.count["n_cache_rebuilds"] == herd.count["n_sequences_dropped"] == 0


def test_a_request_that_always_fails_ends_alone(
    herd: Herd, prompts: list[list[int]], undisturbed: RecordedEngine, strange: int
) -> None:
    herd.script.curse(strange)
    disturbed = [*prompts[:2], [*prompts[2][:5], strange, *prompts[2][5:]], *prompts[3:]]
    outputs = herd.serve(disturbed, n_steps=0)
    assert_only_these_failed(herd, outputs, undisturbed, {2: CURSED})
    assert herd.count["n_failed"] >= 2


def test_a_request_whose_cells_turn_nan_ends_alone(
    herd: Herd, prompts: list[list[int]], undisturbed: RecordedEngine
) -> None:
    (poison,) = herd.engine.tokenize(" xylophone", False, False)[:1]
    herd.script.poison(poison)
    disturbed = [*prompts[:3], [*prompts[3][:5], poison, *prompts[3][5:]], *prompts[4:]]
    outputs = herd.serve(disturbed)
    assert_only_these_failed(herd, outputs, undisturbed, {3: POISONED})
    assert herd.count["n_poisoned_rows"] >= 2
    assert herd.count["n_cache_rebuilds"] == 2  # to find the source, and without it


def test_cells_that_turn_nan_once_are_computed_again(
    herd: Herd, prompts: list[list[int]], undisturbed: RecordedEngine
) -> None:
    n_spoiled = herd.script.n_spoiled
    herd.script.spoil(herd.script.n_calls + 6)
    outputs = herd.serve(prompts)
    assert herd.script.n_spoiled == n_spoiled + 1
    assert_only_these_failed(herd, outputs, undisturbed, {})
    assert herd.count["n_poisoned_rows"] >= 2
    assert herd.count["n_cache_rebuilds"] == 1


def test_nan_that_spreads_to_neighbours_ends_its_source_only(model_path: Path) -> None:
    # Stock attention multiplies what a row does not see with 0.
    options = {"deterministic": False, "cpu_kernels": "stock"}
    herd = Herd(model_path, 500, n_ctx=2048, max_seqs=4, **options)
    text = " ".join(QUESTIONS)
    prompts = [herd.engine.tokenize(text[i : i + 400], True, True) for i in range(0, 40, 8)]
    assert min(map(len, prompts)) > 64  # a tile of attention
    (poison,) = herd.engine.tokenize(" xylophone", False, False)[:1]
    herd.script.poison(poison)
    prompts[1][50] = poison
    outputs = herd.serve(prompts, n_steps=0)
    assert herd.failed == {1: POISONED}
    assert outputs[1] == []
    assert all(len(out) == n_output(i) for i, out in enumerate(outputs) if i != 1)
    spoiled = [lead for tops in herd.tops().values() for _, lead in tops[:1] if lead != lead]
    assert len(spoiled) > 1, "the source's row has neighbours that are NaN as well"
    assert herd.count["n_poisoned_rows"] > len(spoiled)
    assert herd.count["n_cache_rebuilds"] == 2


# Tiny models of each kind of memory.


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


POISON = tiny_models.N_VOCAB - 1
STRANGE = tiny_models.N_VOCAB - 2


@pytest.fixture(scope="module")
def tiny(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(kind, tmp_path_factory.mktemp(kind) / "tiny.gguf", nan_token=POISON)


@pytest.fixture(scope="module")
def tiny_prompts() -> list[list[int]]:
    """Every other one begins alike; some take several calls, and one several ubatches."""
    rng = random.Random(3)
    common, *tails = (
        [rng.randrange(STRANGE) for _ in range(n)] for n in (40, 3, 90, 17, 700, 40, 5, 64, 33)
    )
    return [common + tail if i % 2 else tail for i, tail in enumerate(tails)]


def with_token(prompts: list[list[int]], place: int, at: int, token: int) -> list[list[int]]:
    prompt = [*prompts[place][:at], token, *prompts[place][at:]]
    return [*prompts[:place], prompt, *prompts[place + 1 :]]


@pytest.fixture(scope="module")
def tiny_herd(tiny: Path) -> Herd:
    herd = Herd(tiny, 100, n_ctx=2048, max_seqs=4)
    herd.script.curse(STRANGE)
    return herd


@pytest.fixture(scope="module")
def tiny_undisturbed(tiny: Path, tiny_prompts: list[list[int]]) -> RecordedEngine:
    return alone(tiny, tiny_prompts)


def test_whatever_the_memory_no_fault_changes_a_bit(
    kind: str, tiny_herd: Herd, tiny_prompts: list[list[int]], tiny_undisturbed: RecordedEngine
) -> None:
    n_faults = 0
    for seed in range(16):
        tiny_herd.fail_at_random(seed, n_faults=6, n_calls=24)
        outputs = tiny_herd.serve(tiny_prompts, n_steps=1 + seed % 2)
        assert_only_these_failed(tiny_herd, outputs, tiny_undisturbed, {})
        n_stopped = tiny_herd.count["n_aborted"] + tiny_herd.count["n_failed"]
        n_faults += n_stopped
        states = kind in {"recurrent", "hybrid"}
        assert tiny_herd.count["n_cache_rebuilds"] == (n_stopped if states else 0)
    assert n_faults > 40


@pytest.mark.parametrize("place", [0, 3, 4])
@pytest.mark.parametrize(("token", "error"), [(STRANGE, CURSED), (POISON, POISONED)])
def test_whatever_the_memory_a_faulty_request_ends_alone(
    tiny_herd: Herd,
    tiny_prompts: list[list[int]],
    tiny_undisturbed: RecordedEngine,
    place: int,
    token: int,
    error: str,
) -> None:
    for at in (0, len(tiny_prompts[place]) // 2, len(tiny_prompts[place])):
        outputs = tiny_herd.serve(with_token(tiny_prompts, place, at, token), n_steps=at % 2)
        assert_only_these_failed(tiny_herd, outputs, tiny_undisturbed, {place: error})
        if token == POISON:
            assert tiny_herd.count["n_poisoned_rows"] >= 2
            assert tiny_herd.count["n_cache_rebuilds"] >= 2


def test_whatever_the_memory_faults_come_together(
    tiny_herd: Herd, tiny_prompts: list[list[int]], tiny_undisturbed: RecordedEngine
) -> None:
    disturbed = with_token(with_token(tiny_prompts, 1, 50, POISON), 4, 600, STRANGE)
    expected = {1: POISONED, 4: CURSED}
    n_aborted = 0
    for seed in range(6):
        rng = random.Random(seed)
        for call in rng.sample(range(30), 5):
            tiny_herd.script.abort(tiny_herd.script.n_calls + call, rng.randrange(40))
        outputs = tiny_herd.serve(disturbed, n_steps=seed % 3)
        assert_only_these_failed(tiny_herd, outputs, tiny_undisturbed, expected)
        n_aborted += tiny_herd.count["n_aborted"]
    assert n_aborted > 6


@pytest.mark.parametrize("kind", ["plain", "sliding_window"], indirect=True)
@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_nan_does_not_come_back_from_the_lower_tiers(
    tiny: Path,
    tiny_prompts: list[list[int]],
    tiny_undisturbed: RecordedEngine,
    tier: str,
    tmp_path: Path,
) -> None:
    files = {"cache_ram_mib": 0, "cache_dir": str(tmp_path)} if tier == "disk" else {}
    # Too few cells: what one request leaves is moved out for the next, and comes back when it is
    # asked for again.
    herd = Herd(tiny, 100, n_ctx=768, max_len=768, max_seqs=4, **files)
    expected = 2 * [*tiny_undisturbed.outputs.values()]
    n_poisoned = 0
    for call in range(0, 40, 4):
        herd.script.spoil(herd.script.n_calls + call)
        assert herd.serve(2 * tiny_prompts) == expected
        assert not herd.failed
        n_poisoned += herd.count["n_poisoned_rows"]
    assert_rows_are_those_of(herd, tiny_undisturbed)
    assert herd.script.n_spoiled == 10
    assert n_poisoned > 10
    assert herd.engine.metrics().cache.as_dict()[f"n_from_{tier}"] > 0


def serve_without_memory(path: Path, prompts: list[list[int]]) -> tuple[list[list[int]], int, int]:
    """In a process whose C library asks the system for all but small blocks: limits are felt."""
    mmap_threshold = -3
    assert ctypes.CDLL(None).mallopt(mmap_threshold, 4096) == 1
    herd = Herd(path, 100, n_ctx=2048, max_seqs=4)
    for call in range(0, 40, 2):
        herd.script.exhaust(call, 32768 * (call % 3))
    outputs = herd.serve(prompts)
    assert not herd.failed
    return outputs, herd.count["n_failed"], herd.script.n_exhausted


@pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux only")
def test_allocations_that_fail_inside_llama_cpp_change_no_output(
    tiny: Path, tiny_prompts: list[list[int]], tiny_undisturbed: RecordedEngine
) -> None:
    # What this process has freed would do.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        outputs, n_failed, n_exhausted = pool.submit(
            serve_without_memory, tiny, tiny_prompts
        ).result()
    assert outputs == [*tiny_undisturbed.outputs.values()]
    assert n_failed == n_exhausted > 0
