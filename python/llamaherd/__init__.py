"""Run many sequences of one GGUF model at once: continuous batching over llama.cpp."""

from llamaherd._core import (
    Delta,
    EngineDeadError,
    FinishReason,
    InvalidRequestError,
    LlamaHerdError,
    Metrics,
    ModelLoadError,
    Timing,
    __version__,
)
from llamaherd.params import EngineConfig, SamplingParams

__all__ = [
    "Delta",
    "EngineConfig",
    "EngineDeadError",
    "FinishReason",
    "InvalidRequestError",
    "LlamaHerdError",
    "Metrics",
    "ModelLoadError",
    "SamplingParams",
    "Timing",
    "__version__",
]
