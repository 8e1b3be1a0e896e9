"""What calls cost is measured at load, kept, and used again only for the same set-up."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from llamaherd import BatchEngine, EngineConfig, InvalidRequestError, SamplingParams, _core
from llamaherd.engine import calibration_cache

CONFIG = EngineConfig(n_ctx=512, max_seqs=2, n_threads=1)
FEW_TOKENS = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMAHERD_CACHE", str(tmp_path))
    return tmp_path / "calibration"


def measured(noise: float = 1.1) -> _core.Calibration:
    made = _core.Calibration()
    made.points = [(1, 5e6), (64, 1.25e8)]
    made.few = made.many = (2000.0, 100.0)
    made.load_token_ns = 3000
    made.noise = noise
    return made


def test_it_is_measured_once_and_used_again(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[_core.Calibration] = []
    monkeypatch.setattr(calibration_cache, "store", lambda *arguments: stored.append(arguments[-1]))
    with BatchEngine(model_path, CONFIG) as engine:
        assert engine.calibration is not None
        assert engine.calibration.points[0][0] == 1
        assert [made.points for made in stored] == [engine.calibration.points]
    monkeypatch.undo()
    monkeypatch.setattr(calibration_cache, "load", lambda *arguments: measured())
    with BatchEngine(model_path, CONFIG) as engine:
        assert engine.calibration is not None
        assert engine.calibration.points == measured().points
        assert engine.submit("Once", FEW_TOKENS).result().usage.completion_tokens > 0


def test_what_was_kept_comes_back_for_the_same_set_up_only(model_path: Path) -> None:
    calibration_cache.store(model_path, CONFIG, measured())
    again = calibration_cache.load(model_path, CONFIG)
    assert again is not None
    for name in ("points", "few", "many", "load_token_ns", "noise"):
        assert getattr(again, name) == getattr(measured(), name)
    two_threads = EngineConfig(n_ctx=512, max_seqs=2, n_threads=2)
    small_ubatch = EngineConfig(n_ctx=512, max_seqs=2, n_threads=1, n_ubatch=64)
    for other in (EngineConfig(), two_threads, small_ubatch):
        assert calibration_cache.load(model_path, other) is None
    free = EngineConfig(n_ctx=512, max_seqs=2, n_threads=1, target_itl_ms=50, cache_ram_mib=0)
    assert calibration_cache.load(model_path, free) is not None
    calibration_cache.forget(model_path, CONFIG)
    assert calibration_cache.load(model_path, CONFIG) is None
    calibration_cache.forget(model_path, CONFIG)


# Another value of each option than its default.
OTHERS: dict[str, Any] = {
    "preset": "low_latency",
    "n_ctx": 512,
    "max_len": 100,
    "max_seqs": 2,
    "token_budget": 128,
    "n_ubatch": 64,
    "target_itl_ms": 50.0,
    "max_queued": 3,
    "max_queued_tokens": 300,
    "aging_s": 3.0,
    "tenant_weights": {"a": 2.0},
    "n_threads": 1,
    "poll": 50,
    "n_gpu_layers": 0,
    "devices": ("rpc://localhost:1",),
    "tensor_split": (1.0,),
    "split_mode": "none",
    "main_gpu": 1,
    "use_mmap": False,
    "use_mlock": True,
    "kv_type": "f32",
    "chat_template": "{{ messages }}",
    "cpu_kernels": "stock",
    "deterministic": True,
    "prompt_lookup": False,
    "warmup": False,
    "prefix_cache": False,
    "cache_ram_mib": 0,
    "cache_dir": "/tmp/prefixes",
    "cache_disk_mib": 1,
}
WITHOUT_EFFECT = {
    *("max_len", "target_itl_ms", "max_queued", "max_queued_tokens", "aging_s", "tenant_weights"),
    *("chat_template", "prompt_lookup", "warmup", "cache_ram_mib", "cache_dir", "cache_disk_mib"),
}


@pytest.mark.parametrize("option", [field.name for field in fields(EngineConfig)])
def test_each_option_is_part_of_the_key_unless_it_has_no_effect(
    model_path: Path, option: str
) -> None:
    calibration_cache.store(model_path, EngineConfig(), measured())
    other = EngineConfig(**{option: OTHERS[option]})
    is_found = calibration_cache.load(model_path, other) is not None
    assert is_found == (option in WITHOUT_EFFECT)


@dataclass(frozen=True, kw_only=True)
class LaterConfig(EngineConfig):
    """Options of a later version."""

    new_option: int = 0

    def _to_core(self) -> _core.EngineConfig:
        return EngineConfig()._to_core()


def test_a_new_option_is_part_of_the_key(model_path: Path) -> None:
    calibration_cache.store(model_path, LaterConfig(), measured())
    assert calibration_cache.load(model_path, LaterConfig()) is not None
    assert calibration_cache.load(model_path, LaterConfig(new_option=1)) is None


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_what_was_measured_on_a_busy_machine_is_not_kept(model_path: Path, noise: float) -> None:
    calibration_cache.store(model_path, CONFIG, measured(noise))
    assert calibration_cache.load(model_path, CONFIG) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"points": []}',
        '{"points": [[1, -5]]}',
        '{"points": [[2, 5], [1, 5]]}',
        '{"points": [[1, 5]], "few": [1]}',
        '{"points": [[1, 5]], "few": [NaN, 1]}',
        '{"points": [[1, 5]], "other": 1}',
        '{"points": "x"}',
    ],
)
def test_a_file_that_makes_no_sense_is_none(model_path: Path, own_cache: Path, text: str) -> None:
    calibration_cache.store(model_path, CONFIG, measured())
    (file,) = own_cache.iterdir()
    file.write_text(text)
    assert calibration_cache.load(model_path, CONFIG) is None


def test_where_nothing_can_be_kept_it_is_measured_each_time(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("LLAMAHERD_CACHE", str(file))
    with BatchEngine(model_path, CONFIG) as engine:
        assert engine.calibration is not None


def test_without_a_warm_up_nothing_is_measured(model_path: Path, own_cache: Path) -> None:
    config = EngineConfig(n_ctx=512, max_seqs=2, n_threads=1, warmup=False)
    with BatchEngine(model_path, config) as engine:
        assert engine.calibration is None
        assert engine.submit("Once", FEW_TOKENS).result().usage.completion_tokens > 0
    assert not own_cache.exists()


def test_rules_are_stated() -> None:
    with pytest.raises(InvalidRequestError, match="a calibration must have at least 1 point"):
        _core.Calibration().validate()
