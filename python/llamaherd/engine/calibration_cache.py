"""Calibration files: measured times of decode calls, saved between loads.

A calibration takes seconds and depends on the model file, the options, the build and the machine:
each such combination has one file in the model cache directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamaherd import _core
from llamaherd.config.params import EngineConfig
from llamaherd.models import cache_dir

# These options change neither the time of a call nor the measured calls. All others are in the key.
_WITHOUT_EFFECT = frozenset(
    {
        "max_len",
        "target_itl_ms",
        "max_queued",
        "max_queued_tokens",
        "aging_s",
        "tenant_weights",
        "chat_template",
        "prompt_lookup",
        "warmup",
        "cache_ram_mib",
        "cache_dir",
        "cache_disk_mib",
    }
)
_FIELDS = ("points", "few", "many", "load_token_ns", "noise")

# Repeated measurements on an idle machine differ by a few percent.
_MOST_NOISE = 1.3


def load(path: Path, config: EngineConfig) -> _core.Calibration | None:
    """The saved calibration for this model, options and machine; None if missing or invalid."""
    try:
        kept = json.loads(_file(path, config).read_text())
        calibration = _core.Calibration()
        for name, value in kept.items():
            setattr(calibration, name, value)
        calibration.validate()
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return calibration


def store(path: Path, config: EngineConfig, calibration: _core.Calibration) -> None:
    """Save a calibration for `load()`. Skipped if the machine was busy during the measurement or
    the directory is not writable; the next load then measures again."""
    if not 0 < calibration.noise < _MOST_NOISE:
        return
    file = _file(path, config)
    kept = {name: getattr(calibration, name) for name in _FIELDS}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=".new-", suffix=".json", delete=False
        ) as new:
            json.dump(kept, new)
        os.replace(new.name, file)


def forget(path: Path, config: EngineConfig) -> None:
    """Delete the saved calibration: the next load measures again."""
    with contextlib.suppress(OSError):
        _file(path, config).unlink()


def _file(path: Path, config: EngineConfig) -> Path:
    stat = path.stat()
    identity: list[Any] = [
        str(path.resolve()),
        stat.st_size,
        stat.st_mtime_ns,
        {
            name: value
            for name, value in sorted(asdict(config).items())
            if name not in _WITHOUT_EFFECT
        },
        _core.__version__,
        _core.llama_cpp_commit,
        _core.cpu_features(),
        _core.cpu_kernels(config._to_core()),
        _core.default_n_threads(),
        [(device.name, device.description) for device in _core.list_devices()],
        platform.node(),
    ]
    digest = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()
    return cache_dir() / "calibration" / f"{digest[:32]}.json"
