"""
llamaherd's engine. Private: use the names that the package llamaherd exports.
"""
from __future__ import annotations
import collections.abc
import enum
import numpy
import numpy.typing
import os
import typing
import typing_extensions
__all__: list[str] = ['BareModel', 'BatchEngine', 'CacheMetrics', 'Calibration', 'ChatFormat', 'ChatMessage', 'ChatPrompt', 'ContextLengthError', 'DEFAULT_MAX_TOKENS', 'Delta', 'DeviceInfo', 'Embedder', 'EngineConfig', 'EngineDeadError', 'FaultScript', 'FinishReason', 'GgufSummary', 'Health', 'InvalidRequestError', 'LlamaHerdError', 'LoadProgress', 'LogitsRecord', 'MessageDelta', 'MessageParser', 'Metrics', 'ModelLoadError', 'NotGenerativeError', 'ParsedToolCall', 'QueueFullError', 'RequestProgress', 'SamplingParams', 'SchedulingOptions', 'Timing', 'TokenLogprob', 'ToolCallDelta', 'ToolGrammar', 'TraceCall', 'TraceSpan', 'cpu_features', 'cpu_kernels', 'default_n_threads', 'drain_log', 'fail_assertion', 'limit_malloc_arenas', 'list_devices', 'llama_cpp_commit', 'llama_cpp_version', 'quantization_types', 'quantize', 'read_summary', 'reset_at_signal', 'resolve_preset', 'serve_rpc']
class LlamaHerdError(RuntimeError):
    """
    Base class of llamaherd's errors.
    """
class InvalidRequestError(LlamaHerdError, ValueError):
    """
    A request or an option is invalid; the message states the rule and the value.
    """
class ContextLengthError(InvalidRequestError):
    """
    A prompt or a text does not fit into the model's context. n_prompt_tokens: its tokens; a lower bound if its bytes alone show that it cannot fit, since it is then not tokenized. max_len: the most tokens of prompt and output together, or of a text to embed.
    """
    max_len: typing.ClassVar[int] = 0
    n_prompt_tokens: typing.ClassVar[int] = 0
class ModelLoadError(LlamaHerdError):
    """
    A model file cannot be loaded; the message states the reason.
    """
class NotGenerativeError(ModelLoadError):
    """
    The model is an embedding model and cannot generate.
    """
class QueueFullError(LlamaHerdError):
    """
    The queue is full (max_queued, max_queued_tokens). retry_after_s: estimated seconds until an equal request is accepted.
    """
    retry_after_s: typing.ClassVar[float] = 0.0
class EngineDeadError(LlamaHerdError):
    """
    The engine is closed, or stopped after a fatal error, which the message states.
    """
class SamplingParams:
    """
    The core's form of llamaherd.SamplingParams.
    """
    echo: bool
    ignore_eos: bool
    infill: bool
    prompt_lookup: bool
    @typing.overload
    def __init__(self) -> None:
        ...
    @typing.overload
    def __init__(self, other: SamplingParams) -> None:
        """
        A copy.
        """
    def validate(self) -> None:
        """
        Raises InvalidRequestError if a value is out of range for every model.
        """
    @property
    def best_of(self) -> int | None:
        ...
    @best_of.setter
    def best_of(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def frequency_penalty(self) -> float:
        ...
    @frequency_penalty.setter
    def frequency_penalty(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def logit_bias(self) -> list[tuple[int, float]]:
        ...
    @logit_bias.setter
    def logit_bias(self, arg0: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]]) -> None:
        ...
    @property
    def logprobs(self) -> int | None:
        ...
    @logprobs.setter
    def logprobs(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def max_tokens(self) -> int | None:
        ...
    @max_tokens.setter
    def max_tokens(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def min_p(self) -> float:
        ...
    @min_p.setter
    def min_p(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def min_tokens(self) -> int:
        ...
    @min_tokens.setter
    def min_tokens(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def n(self) -> int:
        ...
    @n.setter
    def n(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def presence_penalty(self) -> float:
        ...
    @presence_penalty.setter
    def presence_penalty(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def preserved_tokens(self) -> list[int]:
        ...
    @preserved_tokens.setter
    def preserved_tokens(self, arg0: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        ...
    @property
    def prompt_logprobs(self) -> int | None:
        ...
    @prompt_logprobs.setter
    def prompt_logprobs(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def prompt_logprobs_from(self) -> int:
        ...
    @prompt_logprobs_from.setter
    def prompt_logprobs_from(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def repetition_penalty(self) -> float:
        ...
    @repetition_penalty.setter
    def repetition_penalty(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def seed(self) -> int | None:
        ...
    @seed.setter
    def seed(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def stop(self) -> list[str]:
        ...
    @stop.setter
    def stop(self, arg1: collections.abc.Sequence[str]) -> None:
        ...
    @property
    def stop_token_ids(self) -> list[int]:
        ...
    @stop_token_ids.setter
    def stop_token_ids(self, arg0: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        ...
    @property
    def temperature(self) -> float:
        ...
    @temperature.setter
    def temperature(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def top_k(self) -> int:
        ...
    @top_k.setter
    def top_k(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def top_p(self) -> float:
        ...
    @top_p.setter
    def top_p(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def typical_p(self) -> float:
        ...
    @typical_p.setter
    def typical_p(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
class SchedulingOptions:
    """
    Priority, tenant and deadlines of a request.
    """
    tenant: str
    def __init__(self) -> None:
        ...
    def validate(self) -> None:
        """
        Raises InvalidRequestError if a value is out of range.
        """
    @property
    def deadline_s(self) -> float | None:
        ...
    @deadline_s.setter
    def deadline_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
    @property
    def priority(self) -> int:
        ...
    @priority.setter
    def priority(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def ttft_deadline_s(self) -> float | None:
        ...
    @ttft_deadline_s.setter
    def ttft_deadline_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
class Calibration:
    """
    Measured times of decode calls, in nanoseconds.
    """
    def __init__(self) -> None:
        ...
    def validate(self) -> None:
        """
        Raises InvalidRequestError if a value is invalid.
        """
    @property
    def few(self) -> tuple[float, float]:
        """
        (per cell that a row attends to, per cell in use and row), below 64 rows.
        """
    @few.setter
    def few(self, arg1: tuple[typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]) -> None:
        ...
    @property
    def load_token_ns(self) -> float:
        """
        Time per token of KV data restored from host memory.
        """
    @load_token_ns.setter
    def load_token_ns(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def many(self) -> tuple[float, float]:
        """
        The same from 64 rows on.
        """
    @many.setter
    def many(self, arg1: tuple[typing.SupportsFloat | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]) -> None:
        ...
    @property
    def noise(self) -> float:
        """
        Median ratio of two measurements of the same shape; 0: no shape was measured twice.
        """
    @noise.setter
    def noise(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def points(self) -> list[tuple[int, float]]:
        """
        (rows, time of a call with an empty KV cache), ascending.
        """
    @points.setter
    def points(self, arg1: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]]) -> None:
        ...
class EngineConfig:
    """
    The core's form of llamaherd.EngineConfig.
    """
    chat_template: str
    cpu_kernels: str
    deterministic: bool
    kv_type: str
    prefix_cache: bool
    preset: str
    prompt_lookup: bool
    split_mode: str
    use_mlock: bool
    use_mmap: bool
    warmup: bool
    def __init__(self) -> None:
        ...
    def validate(self) -> None:
        """
        Raises InvalidRequestError if a value is out of range for every model.
        """
    @property
    def aging_s(self) -> float:
        ...
    @aging_s.setter
    def aging_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def cache_dir(self) -> str:
        ...
    @cache_dir.setter
    def cache_dir(self, arg1: os.PathLike[str] | str | bytes) -> None:
        ...
    @property
    def cache_disk_mib(self) -> int:
        ...
    @cache_disk_mib.setter
    def cache_disk_mib(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def cache_ram_mib(self) -> int:
        ...
    @cache_ram_mib.setter
    def cache_ram_mib(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def devices(self) -> list[str]:
        ...
    @devices.setter
    def devices(self, arg0: collections.abc.Sequence[str]) -> None:
        ...
    @property
    def main_gpu(self) -> int:
        ...
    @main_gpu.setter
    def main_gpu(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def max_len(self) -> int | None:
        ...
    @max_len.setter
    def max_len(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def max_queued(self) -> int | None:
        ...
    @max_queued.setter
    def max_queued(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def max_queued_tokens(self) -> int | None:
        ...
    @max_queued_tokens.setter
    def max_queued_tokens(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def max_seqs(self) -> int | None:
        ...
    @max_seqs.setter
    def max_seqs(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def n_ctx(self) -> int | None:
        ...
    @n_ctx.setter
    def n_ctx(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def n_gpu_layers(self) -> int:
        ...
    @n_gpu_layers.setter
    def n_gpu_layers(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def n_threads(self) -> int | None:
        ...
    @n_threads.setter
    def n_threads(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def n_ubatch(self) -> int | None:
        ...
    @n_ubatch.setter
    def n_ubatch(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def poll(self) -> int:
        ...
    @poll.setter
    def poll(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def target_itl_ms(self) -> float | None:
        ...
    @target_itl_ms.setter
    def target_itl_ms(self, arg0: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
    @property
    def tenant_weights(self) -> list[tuple[str, float]]:
        ...
    @tenant_weights.setter
    def tenant_weights(self, arg0: collections.abc.Sequence[tuple[str, typing.SupportsFloat | typing.SupportsIndex]]) -> None:
        ...
    @property
    def tensor_split(self) -> list[float]:
        ...
    @tensor_split.setter
    def tensor_split(self, arg0: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> None:
        ...
    @property
    def token_budget(self) -> int | None:
        ...
    @token_budget.setter
    def token_budget(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
class FinishReason(enum.Enum):
    """
    Why a request ended.
    """
    CANCELLED = 2
    DEADLINE = 3
    ERROR = 4
    LENGTH = 1
    STOP = 0
class Timing:
    """
    Times of a request's events: nanoseconds of the steady clock (time.monotonic_ns), 0 if not reached.
    """
    def __repr__(self) -> str:
        ...
    @property
    def first_token_ns(self) -> int:
        ...
    @property
    def last_ns(self) -> int:
        """
        Time of this delta.
        """
    @property
    def n_preempted(self) -> int:
        """
        Number of preemptions.
        """
    @property
    def spent_ns(self) -> dict[str, int]:
        """
        Breakdown of last_ns - submit_ns; the parts sum to it. queued, following (waiting for a prefix that another request computes) and preempted: not running. prefill: its own prompt; prefill_shared: restored from the cache's lower tiers; prefill_again: recomputed after eviction. decode: its output tokens. others_prefill, others_decode: other requests' share of its steps. sampling: sampling. engine: all other time.
        """
    @property
    def start_ns(self) -> int:
        """
        First planned into a step.
        """
    @property
    def submit_ns(self) -> int:
        ...
class RequestProgress:
    """
    Progress of a request that has not ended. Read-only. Times: see Timing.
    """
    def __repr__(self) -> str:
        ...
    @property
    def n_cached(self) -> int:
        """
        Prompt tokens that were not computed because their KV data was cached.
        """
    @property
    def n_computed(self) -> int:
        """
        Prompt tokens in the KV cache, n_cached included; after a preemption 0 until the request runs again.
        """
    @property
    def n_preempted(self) -> int:
        """
        Number of preemptions.
        """
    @property
    def n_prompt(self) -> int:
        """
        Prompt tokens.
        """
    @property
    def queue_position(self) -> int:
        """
        Place in the queue: 1: expected to be admitted next; 0: it runs. Requests that arrive later may be admitted before it.
        """
    @property
    def start_ns(self) -> int:
        """
        First planned into a step.
        """
    @property
    def time_ns(self) -> int:
        """
        When this was true.
        """
class Health:
    """
    Health of an engine. Read-only.
    """
    def __repr__(self) -> str:
        ...
    @property
    def call_predicted_s(self) -> float:
        """
        Predicted seconds of the current decode call.
        """
    @property
    def call_s(self) -> float:
        """
        Seconds since the current decode call began; 0 if there is none.
        """
    @property
    def n_running(self) -> int:
        ...
    @property
    def n_waiting(self) -> int:
        ...
    @property
    def ok(self) -> bool:
        ...
    @property
    def reason(self) -> str:
        """
        Reason if not ok; else empty.
        """
    @property
    def since_progress_s(self) -> float:
        """
        Seconds since the last token was computed; 0 if idle.
        """
class TraceSpan:
    """
    A time span of one request, by kind of work.
    """
    @property
    def begin_ns(self) -> int:
        ...
    @property
    def end_ns(self) -> int:
        ...
    @property
    def kind(self) -> str:
        ...
    @property
    def request_id(self) -> int:
        ...
class TraceCall:
    """
    One decode call.
    """
    @property
    def begin_ns(self) -> int:
        ...
    @property
    def end_ns(self) -> int:
        ...
    @property
    def n_cells_used(self) -> int:
        ...
    @property
    def n_decode_rows(self) -> int:
        ...
    @property
    def n_padding_rows(self) -> int:
        ...
    @property
    def n_prefill_rows(self) -> int:
        ...
    @property
    def n_waiting(self) -> int:
        ...
    @property
    def predicted_ns(self) -> float:
        ...
class TokenLogprob:
    """
    Log-probability of a token by the model, before penalties, biases, masks and temperature. Read-only.
    """
    def __repr__(self) -> str:
        ...
    @property
    def logprob(self) -> float:
        """
        Natural logarithm of its probability.
        """
    @property
    def rank(self) -> int:
        """
        1: the most likely token; equal logits are ordered by id.
        """
    @property
    def text_offset(self) -> int:
        """
        Characters of the text before the token: of the output, or of the prompt for prompt tokens; with echo, of prompt and output together.
        """
    @property
    def token_id(self) -> int:
        ...
    @property
    def top(self) -> list[tuple[int, float]]:
        """
        (token id, logprob) of the most likely tokens, in descending order.
        """
class Delta:
    """
    New tokens and text of one request in one step. Read-only. Exactly one delta per request has a finish_reason: the last.
    """
    def __repr__(self) -> str:
        ...
    @property
    def error(self) -> str:
        """
        Set if finish_reason is ERROR, else empty.
        """
    @property
    def finish_reason(self) -> FinishReason | None:
        """
        None until the last delta.
        """
    @property
    def index(self) -> int:
        """
        Index of the output, in [0, n).
        """
    @property
    def logprobs(self) -> list[TokenLogprob]:
        """
        With SamplingParams.logprobs: one TokenLogprob for each of token_ids.
        """
    @property
    def n_cached(self) -> int:
        """
        Prompt tokens that were not computed because their KV data was cached.
        """
    @property
    def n_completion(self) -> int:
        """
        Output tokens so far.
        """
    @property
    def n_prompt(self) -> int:
        """
        Prompt tokens.
        """
    @property
    def prompt_logprobs(self) -> list[TokenLogprob]:
        """
        With SamplingParams.prompt_logprobs: log-probabilities of prompt tokens, all in one delta.
        """
    @property
    def request_id(self) -> int:
        ...
    @property
    def text(self) -> str:
        """
        New text, always valid UTF-8. Held back while a character or a possible stop string is incomplete.
        """
    @property
    def timing(self) -> Timing:
        ...
    @property
    def token_ids(self) -> list[int]:
        """
        New output tokens, a list of int.
        """
class CacheMetrics:
    """
    Counters of an engine's prefix cache since its construction, in tokens unless stated otherwise, and its current state.
    """
    def as_dict(self) -> dict[str, typing.Any]:
        """
        All metrics by name.
        """
    @property
    def follower_wait_ns(self) -> int:
        """
        time that they waited
        """
    @property
    def hit_rate(self) -> float:
        """
        Fraction of n_looked_up found in the cache; 0 if n_looked_up is 0.
        """
    @property
    def n_bytes_disk(self) -> int:
        """
        bytes of KV data on disk
        """
    @property
    def n_bytes_ram(self) -> int:
        """
        bytes of KV data in host memory
        """
    @property
    def n_cells_reclaimable(self) -> int:
        """
        cells that hold cached tokens no running request needs
        """
    @property
    def n_damaged(self) -> int:
        """
        blocks that could not be restored
        """
    @property
    def n_dropped_disk(self) -> int:
        """
        dropped from disk for want of room
        """
    @property
    def n_dropped_ram(self) -> int:
        """
        dropped from host memory for want of room
        """
    @property
    def n_evicted_by_clear(self) -> int:
        """
        removed by clear()
        """
    @property
    def n_evicted_for_cells(self) -> int:
        """
        removed from the KV cache because other tokens needed the cells
        """
    @property
    def n_evicted_for_holders(self) -> int:
        """
        removed because no sequence id was left to hold the prefix
        """
    @property
    def n_followers(self) -> int:
        """
        requests that waited for the prefill of another
        """
    @property
    def n_from_disk(self) -> int:
        """
        of them, restored from disk
        """
    @property
    def n_from_finished(self) -> int:
        """
        of them, left by finished requests
        """
    @property
    def n_from_in_flight(self) -> int:
        """
        of them, computed by another request while this one waited
        """
    @property
    def n_from_ram(self) -> int:
        """
        of them, restored from host memory
        """
    @property
    def n_from_running(self) -> int:
        """
        of them, shared with a running sequence
        """
    @property
    def n_holders(self) -> int:
        """
        sequence ids that can hold cached prefixes
        """
    @property
    def n_holders_used(self) -> int:
        """
        of them, in use
        """
    @property
    def n_looked_up(self) -> int:
        """
        prompt tokens of admitted requests that may use the cache
        """
    @property
    def n_nodes(self) -> int:
        """
        nodes of the tree
        """
    @property
    def n_pins(self) -> int:
        """
        pinned prefixes
        """
    @property
    def n_saved(self) -> int:
        """
        of the removed, saved to host memory
        """
class Metrics:
    """
    Counters of an engine since its construction (n_*: counts; *_ns: nanoseconds of the engine thread), and its current state.
    """
    def __repr__(self) -> str:
        ...
    def as_dict(self) -> dict[str, typing.Any]:
        """
        All metrics by name; those of the prefix cache under 'cache'.
        """
    @property
    def batch_utilisation(self) -> float:
        """
        Mean fraction of max_seqs that decodes, per step with decode rows.
        """
    @property
    def cache(self) -> CacheMetrics:
        ...
    @property
    def decode_ns(self) -> int:
        """
        of it, in calls of n_decode_calls
        """
    @property
    def host_ns(self) -> int:
        """
        Part of step_ns outside model calls and sampling.
        """
    @property
    def mask_wait_ns(self) -> int:
        """
        of sample_ns, waiting for masks
        """
    @property
    def n_aborted(self) -> int:
        """
        model calls that were aborted
        """
    @property
    def n_cache_rebuilds(self) -> int:
        """
        times that the whole KV cache was cleared after a fault
        """
    @property
    def n_cells(self) -> int:
        """
        cells of the KV cache
        """
    @property
    def n_cells_reserved(self) -> int:
        """
        of them, reserved for running requests
        """
    @property
    def n_cells_used(self) -> int:
        """
        of them, used
        """
    @property
    def n_cells_used_max(self) -> int:
        """
        most that were used at once
        """
    @property
    def n_decode_calls(self) -> int:
        """
        model calls with at least one row of such a request
        """
    @property
    def n_decode_rows(self) -> int:
        """
        rows of such requests
        """
    @property
    def n_decode_steps(self) -> int:
        """
        steps with at least one request that decodes
        """
    @property
    def n_draft_accepted(self) -> int:
        """
        of them, accepted
        """
    @property
    def n_drafted(self) -> int:
        """
        rows of draft tokens
        """
    @property
    def n_failed(self) -> int:
        """
        model calls that failed otherwise
        """
    @property
    def n_finished_cancelled(self) -> int:
        """
        requests that ended with CANCELLED
        """
    @property
    def n_finished_deadline(self) -> int:
        """
        requests that ended with DEADLINE
        """
    @property
    def n_finished_error(self) -> int:
        """
        requests that ended with ERROR
        """
    @property
    def n_finished_length(self) -> int:
        """
        requests that ended with LENGTH
        """
    @property
    def n_finished_stop(self) -> int:
        """
        requests that ended with STOP
        """
    @property
    def n_invalid_batch(self) -> int:
        """
        model calls that refused their batch
        """
    @property
    def n_mask_waits(self) -> int:
        """
        tokens whose sampling waited for their mask
        """
    @property
    def n_no_room(self) -> int:
        """
        model calls that found no room in the KV cache
        """
    @property
    def n_output_tokens(self) -> int:
        """
        output tokens
        """
    @property
    def n_padding_rows(self) -> int:
        """
        rows of no request, in calls that are faster with more rows
        """
    @property
    def n_poisoned_rows(self) -> int:
        """
        rows of logits with NaN or infinity
        """
    @property
    def n_preempted(self) -> int:
        """
        times that a running request was preempted
        """
    @property
    def n_prefill_calls(self) -> int:
        """
        model calls with prefill rows only
        """
    @property
    def n_prefill_rows(self) -> int:
        """
        rows of prompt tokens
        """
    @property
    def n_prompt_logits_hits(self) -> int:
        """
        first tokens sampled from kept logits of the same prompt
        """
    @property
    def n_running(self) -> int:
        """
        running requests
        """
    @property
    def n_seqs(self) -> int:
        """
        requests that can run at once
        """
    @property
    def n_sequences_dropped(self) -> int:
        """
        sequences prefilled again, as their memory cannot be trimmed
        """
    @property
    def n_shed(self) -> int:
        """
        of those with DEADLINE, ended before prefill
        """
    @property
    def n_steps(self) -> int:
        """
        steps
        """
    @property
    def n_submitted(self) -> int:
        """
        requests submitted
        """
    @property
    def n_threads(self) -> int:
        """
        CPU threads of model calls
        """
    @property
    def n_waiting(self) -> int:
        """
        queued requests
        """
    @property
    def prefill_budget_ns(self) -> int:
        """
        prefill time per step beside requests that decode, at the last such step; 0: none
        """
    @property
    def prefill_ns(self) -> int:
        """
        of it, in calls of n_prefill_calls
        """
    @property
    def sample_ns(self) -> int:
        """
        of it, in sampling
        """
    @property
    def slowdown_ratio(self) -> float:
        """
        duration of model calls relative to the calibration
        """
    @property
    def step_ns(self) -> int:
        """
        in steps
        """
    @property
    def time_per_token_s(self) -> float:
        """
        Seconds of model calls per output token.
        """
class DeviceInfo:
    """
    A device that models can run on.
    """
    @property
    def backend(self) -> str:
        ...
    @property
    def description(self) -> str:
        ...
    @property
    def kind(self) -> str:
        """
        cpu, gpu, integrated_gpu or accelerator.
        """
    @property
    def memory_free(self) -> int:
        """
        Bytes.
        """
    @property
    def memory_total(self) -> int:
        """
        Bytes.
        """
    @property
    def name(self) -> str:
        """
        Name for EngineConfig.devices.
        """
class GgufSummary:
    """
    What the header of a GGUF file states of its model; 0 and '' where it states nothing. Read-only.
    """
    @property
    def architecture(self) -> str:
        ...
    @property
    def causal(self) -> bool:
        """
        Whether attention is causal; that of encoders for embeddings is not.
        """
    @property
    def n_bytes(self) -> int:
        """
        Bytes of the tensors in this file.
        """
    @property
    def n_ctx_train(self) -> int:
        """
        Trained context length in tokens.
        """
    @property
    def n_embd(self) -> int:
        ...
    @property
    def n_params(self) -> int:
        """
        Parameters in this file.
        """
    @property
    def n_vocab(self) -> int:
        ...
    @property
    def pooling(self) -> str:
        """
        mean, cls, last or rank.
        """
    @property
    def weight_type(self) -> str:
        """
        Type of the weights by llama.cpp's name.
        """
class LoadProgress:
    """
    Reports the progress of a load and cancels it, from another thread.
    """
    def __init__(self) -> None:
        ...
    def cancel(self) -> None:
        """
        Cancel the load, which then raises ModelLoadError.
        """
    @property
    def fraction(self) -> float:
        """
        Fraction of the weights loaded, in [0, 1].
        """
class BareModel:
    """
    A model without engine, scheduler or cache. Not thread-safe.
    """
    def __init__(self, path: str, config: EngineConfig) -> None:
        """
        Raises ModelLoadError, InvalidRequestError.
        """
    def least_tokens(self, text: str) -> int:
        """
        Lower bound of the number of tokens.
        """
    def logits(self, tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], n_rows: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
        """
        Logits, float32 of shape (len(tokens), n_vocab), computed with an empty cache in calls of n_rows rows, in [1, max_seqs].
        """
    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        ...
    def tokenize_by_llama(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """
        Tokenize the whole text with llama.cpp.
        """
class LogitsRecord:
    """
    Hashes of an engine's logits, for bitwise comparison of runs.
    """
    def __init__(self) -> None:
        ...
    def rows(self) -> dict[int, list[int]]:
        """
        Hash of a token prefix -> hashes of the logits rows computed from it.
        """
    def tops(self) -> dict[int, list[tuple[int, float]]]:
        """
        Hash of a token prefix -> (most likely token, its margin over the second in logits) of these rows.
        """
class FaultScript:
    """
    Scripted faults in an engine's decode calls, which count from 0. Any thread.
    """
    def __init__(self) -> None:
        ...
    def abort(self, call: typing.SupportsInt | typing.SupportsIndex, after_nodes: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Abort a call after this number of graph nodes, unless it ends before.
        """
    def clear(self) -> None:
        """
        Remove the faults of future calls.
        """
    def curse(self, token: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Fail every call with a row of this token.
        """
    def exhaust(self, call: typing.SupportsInt | typing.SupportsIndex, after_bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Fail llama.cpp's allocations in a call after the process has grown by this number of bytes. Linux only.
        """
    def fail(self, call: typing.SupportsInt | typing.SupportsIndex, after_rows: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Fail a call as out of memory after this number of its rows has been applied.
        """
    def poison(self, token: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Set the K/V data computed from this token to NaN.
        """
    def spoil(self, call: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Overwrite the K/V data that a successful call wrote with NaN.
        """
    @property
    def n_aborted(self) -> int:
        ...
    @property
    def n_calls(self) -> int:
        """
        Decode calls so far.
        """
    @property
    def n_exhausted(self) -> int:
        ...
    @property
    def n_failed(self) -> int:
        ...
    @property
    def n_spoiled(self) -> int:
        ...
class ParsedToolCall:
    """
    A tool call of the model.
    """
    @property
    def arguments(self) -> str:
        """
        JSON.
        """
    @property
    def id(self) -> str:
        """
        Empty if the format has no ids.
        """
    @property
    def name(self) -> str:
        ...
class ChatMessage:
    """
    A parsed assistant message.
    """
    @property
    def content(self) -> str:
        ...
    @property
    def reasoning(self) -> str:
        ...
    @property
    def tool_calls(self) -> list[ParsedToolCall]:
        ...
class ToolGrammar:
    """
    Constraint of tool calls.
    """
    @property
    def gbnf(self) -> str:
        """
        Empty: unconstrained.
        """
    @property
    def generation_prompt(self) -> str:
        """
        Beginning of the assistant message that is part of the prompt.
        """
    @property
    def lazy(self) -> bool:
        """
        Whether the grammar applies from a trigger outside reasoning on; else from the beginning of generation_prompt on.
        """
    @property
    def patterns(self) -> list[str]:
        """
        Regular expressions as triggers; the grammar applies from the first group on, if any.
        """
    @property
    def thought_begin(self) -> str:
        """
        Start of reasoning. Empty: reasoning is not recognized.
        """
    @property
    def thought_ends(self) -> list[str]:
        ...
    @property
    def words(self) -> list[str]:
        """
        Literal triggers.
        """
class ChatFormat:
    """
    Parser of a model's output format for one prompt. Thread-safe.
    """
    def content_grammar(self, literal: str) -> str:
        """
        GBNF of answers without tool calls whose content is a literal. Empty if the format has no content.
        """
    def parse(self, text: str) -> ChatMessage:
        """
        Parse a complete or truncated message. Raises LlamaHerdError if it does not follow the format.
        """
    @property
    def grammar(self) -> ToolGrammar:
        """
        Constraint of tool calls.
        """
class ToolCallDelta:
    """
    The part of a tool call that a delta adds.
    """
    @property
    def arguments(self) -> str:
        """
        Next part of the JSON.
        """
    @property
    def id(self) -> str:
        """
        Set in the first delta of a call only; empty if the format has no ids.
        """
    @property
    def index(self) -> int:
        """
        Index of the call in the message, from 0.
        """
    @property
    def name(self) -> str:
        """
        Set in the first delta of a call only.
        """
class MessageDelta:
    """
    The part of an assistant message that a delta adds.
    """
    @property
    def content(self) -> str:
        ...
    @property
    def reasoning(self) -> str:
        ...
    @property
    def tool_calls(self) -> list[ToolCallDelta]:
        ...
class MessageParser:
    """
    Incremental parser of an assistant message. The work per byte does not depend on the length of the message. Not thread-safe.
    """
    def __init__(self, format: ChatFormat) -> None:
        ...
    def read(self, text: str) -> MessageDelta:
        """
        Parse the next piece of text and return what it adds. Text that may be the start of a marker is held back.
        """
    @property
    def n_steps(self) -> int:
        """
        Work so far: bytes examined plus rules tried.
        """
    @property
    def text(self) -> str:
        """
        Text read so far.
        """
    @property
    def unread(self) -> str:
        """
        Text of the message that read() has not returned yet.
        """
class ChatPrompt:
    """
    A rendered conversation.
    """
    @property
    def format(self) -> ChatFormat:
        """
        None: the output text is the content.
        """
    @property
    def preserved_tokens(self) -> list[int]:
        """
        Special tokens that the parser needs in the output text.
        """
    @property
    def stop(self) -> list[str]:
        """
        Strings that end the assistant's turn.
        """
    @property
    def text(self) -> str:
        ...
class BatchEngine:
    """
    The core of llamaherd.BatchEngine.
    """
    def __init__(self, path: os.PathLike[str] | str | bytes, config: EngineConfig, progress: LoadProgress, threaded: bool, record: LogitsRecord | None = None, calibration: Calibration | None = None, faults: FaultScript | None = None) -> None:
        """
        Load a model and start its engine.
        
        Args:
          path: GGUF file; of a split one, the first part.
          config: Copied.
          progress: Progress and cancellation, for other threads.
          threaded: False: no thread; the caller calls step().
          record: Records every logits row. For tests.
          calibration: Measured times of decode calls. None: measure them if config.warmup.
          faults: Faults to inject into decode calls. For tests.
        
        Raises:
          ModelLoadError: The file cannot be loaded, or the context cannot be created.
          InvalidRequestError: An option is out of range.
        
        Thread safety:
          Releases the GIL while it loads.
        """
    def apply_chat_template(self, *, messages_json: str, tools_json: str, tool_choice: str, parallel_tool_calls: bool, thinking: bool, template_kwargs_json: str, add_generation_prompt: bool, continue_final_message: bool | None) -> ChatPrompt:
        """
        Render a conversation with the model's chat template. continue_final_message: whether the answer continues the last message; None: if it is an assistant message. Any thread.
        """
    def cancel(self, request_id: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Cancel a request; its last delta has the finish reason. Any thread.
        """
    def clear_cache(self) -> None:
        """
        Remove all pins, and all cached data that running requests do not use. Any thread.
        """
    def close(self) -> None:
        """
        End all requests as CANCELLED, stop, and free the model. Idempotent. Any thread.
        """
    def detokenize(self, token_ids: typing.Any, special: bool) -> str:
        """
        Detokenize token ids. Invalid UTF-8 is replaced by U+FFFD. Any thread.
        """
    def drain(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> list[Delta]:
        """
        Return all deltas since the last call; wait up to timeout_s seconds (at most 0.1) for the first. Any thread.
        """
    def end_of_generation(self) -> list[int]:
        """
        End-of-generation tokens, ascending. Any thread.
        """
    def fail_mask(self, request_id: typing.SupportsInt | typing.SupportsIndex, error: str) -> None:
        """
        End a request that waits for masks with an error. Any thread.
        """
    def fatal_error(self) -> str:
        """
        The first fatal error, or ''. Any thread.
        """
    def finished(self) -> bool:
        """
        Whether the engine is closed or dead and all deltas are drained. Any thread.
        """
    def health(self) -> Health:
        """
        Current health. Any thread.
        """
    def hold(self) -> None:
        """
        Delay new steps until release(), so that requests submitted meanwhile are planned together.
        """
    def lift_mask(self, request_id: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Allow all further output tokens of a request submitted with a mask. Any thread.
        """
    def metrics(self) -> Metrics:
        """
        Metrics as of the last step. Any thread.
        """
    def model_info(self) -> dict[str, typing.Any]:
        """
        Model properties and limits in force.
        """
    def pin(self, name: str, prefix: typing.Any, cache_space: typing.SupportsInt | typing.SupportsIndex, ttl_s: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        """
        Pin a prefix: evict it last once it is computed. ttl_s: seconds until the pin expires; None: never. Any thread.
        """
    def progress(self, request_id: typing.SupportsInt | typing.SupportsIndex, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> RequestProgress | None:
        """
        Progress of a request; None: it has ended. Waits up to timeout_s seconds (at most 0.1) for the end of a step; without one, the last known state. Any thread.
        """
    def release(self) -> None:
        """
        End one hold().
        """
    def set_mask(self, request_id: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex, mask: typing_extensions.Buffer) -> None:
        """
        Set the mask of output token `index` of a request submitted with a mask or triggers; b'' allows all tokens. Ignored if the request has ended. Raises InvalidRequestError if the size is wrong. Any thread.
        """
    def start_trace(self) -> None:
        """
        Start recording decode calls and the time spans of requests. Any thread.
        """
    def step(self) -> bool:
        """
        Unthreaded engines: run one step. Returns whether requests are left. Raises EngineDeadError. Any thread; concurrent calls are serialized.
        """
    def submit(self, prompt: typing.Any, params: SamplingParams, streamed: bool = True, cache_space: typing.SupportsInt | typing.SupportsIndex | None = 0, scheduling: SchedulingOptions = ..., mask: typing_extensions.Buffer | None = None, triggers: collections.abc.Sequence[str] = []) -> int:
        """
        Queue one prompt for generation and return immediately. Its outputs (best_of, else n) are requests
        with consecutive ids, queued all or none.
        
        Args:
          prompt: Token ids, shape (n_prompt,), integers in [0, n_vocab). Copied.
          params: Not copied: must not be modified afterwards.
          streamed: False: only the last delta is delivered, with all tokens and text.
          cache_space: Cache namespace, in [0, 2**64): prefixes are shared within it only. None: a private
            request.
          scheduling: Copied.
          mask: Allowed first output tokens: bit t % 32 of the 32-bit word t / 32 for token t. Every
            further output token then waits for set_mask(). None: all.
          triggers: Texts, which may contain names of special tokens. Without mask, all tokens are allowed
            until one of them is output; every later token waits for set_mask().
        
        Returns:
          The first request's id, unique within this engine.
        
        Raises:
          InvalidRequestError: An argument is invalid; the message states the rule and the value.
          TypeError: The ids are not integers.
          QueueFullError: The queue is full.
          EngineDeadError: The engine is closed or stopped.
        
        Thread safety:
          Any thread. Does not wait for a step.
        """
    def take_trace(self) -> tuple[list[TraceSpan], list[TraceCall]]:
        """
        Stop recording, and return the events since start_trace(). Any thread.
        """
    def token_bytes(self, token_id: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        """
        Bytes of a token; empty for special tokens. Any thread.
        """
    def token_name(self, token: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        """
        A token's bytes in the text that is searched for triggers; special tokens by name. Any thread.
        """
    def tokenize(self, text: str, add_special: bool, parse_special: bool, prompt: bool = False) -> list[int]:
        """
        Tokenize a text. prompt: raise ContextLengthError if it has more than max_len tokens. Any thread.
        """
    def unpin(self, name: str) -> None:
        """
        Remove a pin. Any thread.
        """
    @property
    def calibration(self) -> Calibration | None:
        """
        Times of decode calls, as passed or measured at load; None: neither.
        """
class Embedder:
    """
    The core of llamaherd.Embedder.
    """
    @staticmethod
    def of_engine(engine: BatchEngine, config: EngineConfig, pooling: str) -> Embedder:
        """
        Create an embedder that shares an engine's weights; they stay in memory as long as it exists.
        """
    def __init__(self, path: os.PathLike[str] | str | bytes, config: EngineConfig, progress: LoadProgress, pooling: str) -> None:
        """
        Load a model. pooling: mean, cls, last or rank; '': the model's. Raises ModelLoadError; InvalidRequestError if the pooling is unknown.
        """
    def count_tokens(self, text: typing.Any) -> int:
        """
        Number of tokens of a text (or of token ids), at most max_len. Any thread.
        """
    def embed(self, texts: list[typing.Any], truncate: bool, pooling: str = '') -> tuple[numpy.typing.NDArray[numpy.float32], list[int]]:
        """
        Embed texts, each a str or token ids: float32 of shape (n_texts, n_out), and the indices of truncated texts. pooling: mean, cls or last; '': the embedder's. Raises ContextLengthError and InvalidRequestError. Any thread; concurrent calls are serialized.
        """
    def rank(self, query: str, documents: collections.abc.Sequence[str], truncate: bool) -> tuple[numpy.typing.NDArray[numpy.float32], list[int]]:
        """
        As embed(), for a query with each document, with a model of pooling rank.
        """
    @property
    def max_len(self) -> int:
        """
        Maximum tokens of a text.
        """
    @property
    def n_calls(self) -> int:
        """
        Number of model calls so far.
        """
    @property
    def n_out(self) -> int:
        """
        Length of the result per text.
        """
    @property
    def pooling(self) -> str:
        """
        mean, cls, last or rank; '': none given, and the model has none.
        """
def cpu_features() -> list[tuple[str, str]]:
    """
    ggml's active CPU features and build options.
    """
def cpu_kernels(config: EngineConfig) -> str:
    """
    CPU kernels that an engine with this config uses: stock, reference, or the instruction set of llamaherd's kernels. Raises InvalidRequestError if the environment variable LLAMAHERD_CPU_KERNELS is invalid.
    """
def default_n_threads() -> int:
    """
    Number of CPUs available to this process.
    """
def drain_log() -> list[tuple[int, str]]:
    """
    Log lines of llama.cpp since the last call, as (logging level, text). Any thread.
    """
def fail_assertion() -> None:
    """
    Abort the process like a failed assertion of llama.cpp. For tests.
    """
def limit_malloc_arenas(n: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Limit the number of malloc arenas of threads started from now on; glibc only. glibc's default is 8
    per core. Each arena keeps memory that its threads freed, so that large requests accumulate memory
    in several arenas.
    """
def list_devices() -> list[DeviceInfo]:
    """
    Devices available on this machine.
    """
def quantization_types() -> list[str]:
    """
    Type names for quantize().
    """
def quantize(source: os.PathLike[str] | str | bytes, target: os.PathLike[str] | str | bytes, type: str, n_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Write a GGUF file with its weights quantized to another type. Raises ModelLoadError.
    """
def read_summary(path: os.PathLike[str] | str | bytes) -> GgufSummary:
    """
    Read the header of a GGUF file, without its tensors. Raises ModelLoadError. Any thread.
    """
def reset_at_signal(number: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Reset the handler of a signal to the default action after the first signal (SA_RESETHAND). The
    second SIGTERM or SIGINT then ends the process even if all its threads are blocked.
    
    Raises:
      InvalidRequestError: The signal does not exist.
    """
def resolve_preset(config: EngineConfig) -> tuple[int, int]:
    """
    Effective (max_seqs, token_budget): explicit options, else the preset's.
    """
def serve_rpc(endpoint: str) -> None:
    """
    Serve this machine's CPU as an RPC device at HOST:PORT. Returns on failure only.
    """
DEFAULT_MAX_TOKENS: int = 512
__version__: str
llama_cpp_commit: str
llama_cpp_version: str
