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
    NotGenerativeError,
    QueueFullError,
    Timing,
    TokenLogprob,
    __version__,
    list_devices,
)
from llamaherd.chat import ChatOptions, Reply, ReplyReader, ToolCall
from llamaherd.embedder import Embedder, Ranked
from llamaherd.engine import BatchEngine
from llamaherd.llm import LLM
from llamaherd.params import EngineConfig, SamplingParams
from llamaherd.prefix_cache import PrefixCache
from llamaherd.result import Result, Usage
from llamaherd.scoring import Choice, Perplexity, Score
from llamaherd.stream import Stream, as_completed

__all__ = [
    "LLM",
    "BatchEngine",
    "ChatOptions",
    "Choice",
    "Delta",
    "DeviceInfo",
    "Embedder",
    "EngineConfig",
    "EngineDeadError",
    "FinishReason",
    "Health",
    "InvalidRequestError",
    "LlamaHerdError",
    "Metrics",
    "ModelLoadError",
    "NotGenerativeError",
    "Perplexity",
    "PrefixCache",
    "QueueFullError",
    "Ranked",
    "Reply",
    "ReplyReader",
    "Result",
    "SamplingParams",
    "Score",
    "Stream",
    "Timing",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "__version__",
    "as_completed",
    "list_devices",
]
