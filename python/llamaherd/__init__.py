"""Inference of GGUF models with continuous batching, over llama.cpp."""

from llamaherd import cpu_check  # noqa: F401  (before _core)
from llamaherd._core import (
    CacheMetrics,
    ContextLengthError,
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
    RequestProgress,
    Timing,
    TokenLogprob,
    __version__,
    list_devices,
)
from llamaherd.config.params import EngineConfig, SamplingParams
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.engine.prefix_cache import PrefixCacheControl
from llamaherd.engine.stream import Stream, as_completed
from llamaherd.offline.embedder import Embedder, RerankResult
from llamaherd.offline.llm import LLM
from llamaherd.offline.scoring import Choice, Perplexity, Score
from llamaherd.request.assistant_message import AssistantMessage, MessageReader, ToolCall
from llamaherd.request.chat import ChatOptions
from llamaherd.request.infill import ExtraFile, InfillPrompt
from llamaherd.request.result import RequestOutput, Usage

__all__ = [
    "LLM",
    "AssistantMessage",
    "BatchEngine",
    "CacheMetrics",
    "ChatOptions",
    "Choice",
    "ContextLengthError",
    "Delta",
    "DeviceInfo",
    "Embedder",
    "EngineConfig",
    "EngineDeadError",
    "ExtraFile",
    "FinishReason",
    "Health",
    "InfillPrompt",
    "InvalidRequestError",
    "LlamaHerdError",
    "MessageReader",
    "Metrics",
    "ModelLoadError",
    "NotGenerativeError",
    "Perplexity",
    "PrefixCacheControl",
    "QueueFullError",
    "RequestOutput",
    "RequestProgress",
    "RerankResult",
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
