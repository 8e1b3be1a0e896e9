"""Run many sequences of one GGUF model at once: continuous batching over llama.cpp."""

from llamaherd._core import (
    Delta,
    DeviceInfo,
    EngineDeadError,
    FinishReason,
    Health,
    InvalidRequestError,
    LlamaHerdError,
    Metrics,
    ModelLoadError,
    QueueFullError,
    Timing,
    __version__,
    list_devices,
)
from llamaherd.engine import BatchEngine
from llamaherd.llm import LLM
from llamaherd.params import EngineConfig, SamplingParams
from llamaherd.prefix_cache import PrefixCache
from llamaherd.result import Result, Usage
from llamaherd.stream import Stream, as_completed

__all__ = [
    "LLM",
    "BatchEngine",
    "Delta",
    "DeviceInfo",
    "EngineConfig",
    "EngineDeadError",
    "FinishReason",
    "Health",
    "InvalidRequestError",
    "LlamaHerdError",
    "Metrics",
    "ModelLoadError",
    "PrefixCache",
    "QueueFullError",
    "Result",
    "SamplingParams",
    "Stream",
    "Timing",
    "Usage",
    "__version__",
    "as_completed",
    "list_devices",
]
