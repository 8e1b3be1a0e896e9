"""
llamaherd's engine. Private: use the names that the package llamaherd exports.
"""
from __future__ import annotations
import collections.abc
import enum
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['BareModel', 'BatchEngine', 'CacheMetrics', 'Calibration', 'ChatFormat', 'ChatMessage', 'ChatPrompt', 'Delta', 'DeviceInfo', 'Embedder', 'EngineConfig', 'EngineDeadError', 'FaultScript', 'FinishReason', 'Health', 'InvalidRequestError', 'LlamaHerdError', 'LoadProgress', 'LogitsRecord', 'MessageDelta', 'MessageParser', 'Metrics', 'ModelLoadError', 'NotGenerativeError', 'ParsedToolCall', 'QueueFullError', 'SamplingParams', 'SchedulingOptions', 'Timing', 'TokenLogprob', 'ToolCallDelta', 'ToolGrammar', 'TraceCall', 'TraceSpan', 'cpu_features', 'cpu_kernels', 'default_n_threads', 'drain_log', 'fail_assertion', 'limit_malloc_arenas', 'list_devices', 'llama_cpp_commit', 'llama_cpp_version', 'quantization_types', 'quantize', 'reset_at_signal', 'resolve_preset', 'serve_rpc']
class LlamaHerdError(RuntimeError):
    """
    Base of all errors that llamaherd raises.
    """
class InvalidRequestError(LlamaHerdError, ValueError):
    """
    A request or an option breaks a rule; the message states the rule and the value.
    """
class ModelLoadError(LlamaHerdError):
    """
    A model file cannot be used; the message says why.
    """
class NotGenerativeError(ModelLoadError):
    """
    The model makes embeddings and no text.
    """
class QueueFullError(LlamaHerdError):
    """
    As many requests wait as may (max_queued, max_queued_tokens). retry_after_s: seconds after which an equal one is expected to find a place.
    """
    retry_after_s: typing.ClassVar[float] = 0.0
class EngineDeadError(LlamaHerdError):
    """
    The engine is closed, or stopped after a fatal error that the message names.
    """
class SamplingParams:
    """
    The core's form of llamaherd.SamplingParams.
    """
    echo: bool
    ignore_eos: bool
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
        Raises InvalidRequestError if a value is out of range whatever the model.
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
    Whose request it is and by when it should be served.
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
    What decode calls cost, as measured; nanoseconds.
    """
    def __init__(self) -> None:
        ...
    def validate(self) -> None:
        """
        Raises InvalidRequestError if it breaks a rule.
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
        Per token of KV data brought back from host memory.
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
        Median ratio of two measurements of one shape; 0: none was measured twice.
        """
    @noise.setter
    def noise(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def points(self) -> list[tuple[int, float]]:
        """
        (rows, time of a call on an empty cache), ascending.
        """
    @points.setter
    def points(self, arg1: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]]) -> None:
        ...
class EngineConfig:
    """
    The core's form of llamaherd.EngineConfig.
    """
    cache_dir: str
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
        Raises InvalidRequestError if a value is out of range whatever the model.
        """
    @property
    def aging_s(self) -> float:
        ...
    @aging_s.setter
    def aging_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
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
    How a request ended.
    """
    CANCELLED = 2
    DEADLINE = 3
    ERROR = 4
    LENGTH = 1
    STOP = 0
class Timing:
    """
    Moments of a request's life: nanoseconds of the steady clock (time.monotonic_ns), 0 if not reached.
    """
    def __repr__(self) -> str:
        ...
    @property
    def first_token_ns(self) -> int:
        ...
    @property
    def last_ns(self) -> int:
        """
        This delta was made.
        """
    @property
    def n_preempted(self) -> int:
        """
        Times it had to wait again so that others could run.
        """
    @property
    def spent_ns(self) -> dict[str, int]:
        """
        Where last_ns - submit_ns went, to which it adds up. queued, following (waiting for a prefix that another computes) and preempted: waiting. prefill: its own prompt; prefill_shared: brought back from the cache's lower tiers; prefill_again: computed before and lost. decode: its next tokens. others_prefill, others_decode: others' part of its steps. sampling. engine: all else.
        """
    @property
    def start_ns(self) -> int:
        """
        First planned into a step.
        """
    @property
    def submit_ns(self) -> int:
        ...
class Health:
    """
    How an engine does. Read-only.
    """
    def __repr__(self) -> str:
        ...
    @property
    def call_predicted_s(self) -> float:
        """
        And was predicted to take.
        """
    @property
    def call_s(self) -> float:
        """
        Seconds that the decode call under way has taken; 0: none is.
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
        Why not ok; else empty.
        """
    @property
    def since_progress_s(self) -> float:
        """
        Seconds since a token was computed; 0 if there is nothing to do.
        """
class TraceSpan:
    """
    What one request's time went into for a while.
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
    How likely a token was by the model itself: without penalties, biases, masks and temperature. Read-only.
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
        1: the likeliest token; equals by id.
        """
    @property
    def text_offset(self) -> int:
        """
        Characters of the text that begin before it: of the output, of a prompt token the prompt's, with echo of both together.
        """
    @property
    def token_id(self) -> int:
        ...
    @property
    def top(self) -> list[tuple[int, float]]:
        """
        (token id, logprob) of the likeliest tokens, best first.
        """
class Delta:
    """
    What one request gained in one step. Read-only. Exactly one delta per request has a finish_reason, and it is the last.
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
        Of the output, in [0, n).
        """
    @property
    def logprobs(self) -> list[TokenLogprob]:
        """
        With SamplingParams.logprobs: one TokenLogprob for each of token_ids.
        """
    @property
    def n_cached(self) -> int:
        """
        Prompt tokens that did not have to be computed.
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
        With SamplingParams.prompt_logprobs, in one delta: of prompt tokens.
        """
    @property
    def request_id(self) -> int:
        ...
    @property
    def text(self) -> str:
        """
        New text, always valid UTF-8. Lags token_ids while a character or a possible stop string is incomplete.
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
    Counters of an engine's prefix cache, in tokens unless said, since it was made, and how it stands.
    """
    def as_dict(self) -> dict[str, typing.Any]:
        """
        All figures by name.
        """
    @property
    def follower_wait_ns(self) -> int:
        """
        time that they waited
        """
    @property
    def hit_rate(self) -> float:
        """
        Tokens found, of n_looked_up; 0 of none.
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
    An engine's counters (n_*: how often; *_ns: nanoseconds of the engine's thread) since it was made, and how it stands.
    """
    def __repr__(self) -> str:
        ...
    def as_dict(self) -> dict[str, typing.Any]:
        """
        All figures by name; the prefix cache's under 'cache'.
        """
    @property
    def batch_utilisation(self) -> float:
        """
        Requests that decode per step, of those that can run at once.
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
        Of step_ns, outside model calls and sampling.
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
        As EngineConfig.devices takes it.
        """
class LoadProgress:
    """
    Watches and cancels a load from another thread.
    """
    def __init__(self) -> None:
        ...
    def cancel(self) -> None:
        """
        The load raises ModelLoadError soon.
        """
    @property
    def fraction(self) -> float:
        """
        Of the weights, in [0, 1].
        """
class BareModel:
    """
    A model without an engine, for one thread.
    """
    def __init__(self, path: str, config: EngineConfig) -> None:
        """
        Raises ModelLoadError, InvalidRequestError.
        """
    def least_tokens(self, text: str) -> int:
        """
        A number of tokens that the text has at least.
        """
    def logits(self, tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], n_rows: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
        """
        float32 of shape (len(tokens), n_vocab), computed n_rows at a time, in [1, max_seqs], in an empty cache.
        """
    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        ...
    def tokenize_by_llama(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """
        What llama.cpp makes of the whole text, in its time.
        """
class LogitsRecord:
    """
    Fingerprints of an engine's logits, to compare runs to the bit.
    """
    def __init__(self) -> None:
        ...
    def rows(self) -> dict[int, list[int]]:
        """
        Hash of a token prefix -> hashes of the logits rows computed from it.
        """
    def tops(self) -> dict[int, list[tuple[int, float]]]:
        """
        Hash of a token prefix -> (likeliest token, its lead in logits) of these rows.
        """
class FaultScript:
    """
    What goes wrong in an engine's decode calls, counted from 0. Any thread.
    """
    def __init__(self) -> None:
        ...
    def abort(self, call: typing.SupportsInt | typing.SupportsIndex, after_nodes: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Stop a call when it has computed so many graph nodes, unless it ends before.
        """
    def clear(self) -> None:
        """
        Take back what was said of calls to come.
        """
    def curse(self, token: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Every call with a row of this token fails.
        """
    def exhaust(self, call: typing.SupportsInt | typing.SupportsIndex, after_bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Let llama.cpp's own allocations fail in a call, when the process has grown by so much. Linux only.
        """
    def fail(self, call: typing.SupportsInt | typing.SupportsIndex, after_rows: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Let a call run out of memory when so many of its rows have been applied.
        """
    def poison(self, token: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        K/V data computed from this token is NaN.
        """
    def spoil(self, call: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        SchedulingKey the K/V data that a call wrote into NaN, once it has succeeded.
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
    One call of a tool by the model.
    """
    @property
    def arguments(self) -> str:
        """
        JSON.
        """
    @property
    def id(self) -> str:
        """
        Empty in formats that have none.
        """
    @property
    def name(self) -> str:
        ...
class ChatMessage:
    """
    An assistant's answer, taken apart.
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
    What calls of tools must obey.
    """
    @property
    def gbnf(self) -> str:
        """
        Empty: the answer is free.
        """
    @property
    def generation_prompt(self) -> str:
        """
        What the prompt holds of the answer.
        """
    @property
    def lazy(self) -> bool:
        """
        It is obeyed from a trigger on, outside thoughts; else from the beginning of generation_prompt on.
        """
    @property
    def patterns(self) -> list[str]:
        """
        Regular expressions that are triggers, from their first group on if they have one.
        """
    @property
    def thought_begin(self) -> str:
        """
        Empty: thoughts are not told apart.
        """
    @property
    def thought_ends(self) -> list[str]:
        ...
    @property
    def words(self) -> list[str]:
        """
        Texts that are triggers.
        """
class ChatFormat:
    """
    How a model writes its answer to one prompt. Thread-safe.
    """
    def parse(self, text: str) -> ChatMessage:
        """
        An answer, which may be cut short, taken apart. Raises LlamaHerdError if it is not in this format.
        """
    @property
    def grammar(self) -> ToolGrammar:
        """
        What calls of tools must obey.
        """
class ToolCallDelta:
    """
    What was added to one call of a tool.
    """
    @property
    def arguments(self) -> str:
        """
        The next piece of the JSON.
        """
    @property
    def id(self) -> str:
        """
        Empty but in the call's first delta, and in formats that have none.
        """
    @property
    def index(self) -> int:
        """
        Of the call in the answer, from 0.
        """
    @property
    def name(self) -> str:
        """
        Empty but in the call's first delta.
        """
class MessageDelta:
    """
    What was added to an assistant's answer.
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
    Takes an answer apart as it comes; the work per byte does not depend on the answer's length. Used by one thread at a time.
    """
    def __init__(self, format: ChatFormat) -> None:
        ...
    def read(self, text: str) -> MessageDelta:
        """
        The next piece of the answer, and what it adds. Text that may begin a marker is held back.
        """
    @property
    def n_steps(self) -> int:
        """
        Work done so far, in bytes that were looked at and rules that were tried.
        """
    @property
    def unread(self) -> str:
        """
        The answer's text behind what read() returned last.
        """
class ChatPrompt:
    """
    A conversation as the model reads it.
    """
    @property
    def format(self) -> ChatFormat:
        """
        None: the answer's text is its content.
        """
    @property
    def preserved_tokens(self) -> list[int]:
        """
        Special tokens that the format is read by.
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
    def __init__(self, path: str, config: EngineConfig, progress: LoadProgress, threaded: bool, record: LogitsRecord | None = None, calibration: Calibration | None = None, faults: FaultScript | None = None) -> None:
        """
        Load a model and start its engine.
        
        Args:
          path: GGUF file; of a split one, the first part.
          config: Copied.
          progress: Watched and cancelled from other threads while this runs.
          threaded: False: no thread; the caller drives step().
          record: If given, notes every logits row. For tests.
          calibration: What calls cost, if that is known; else config.warmup says whether to measure it.
          faults: If given, what goes wrong in decode calls. For tests.
        
        Raises:
          ModelLoadError: The file or the context cannot be used.
          InvalidRequestError: An option is out of range.
        
        Thread safety:
          Releases the GIL while it loads.
        """
    def apply_chat_template(self, *, messages_json: str, tools_json: str, tool_choice: str, parallel_tool_calls: bool, thinking: bool, template_kwargs_json: str, add_generation_prompt: bool) -> ChatPrompt:
        """
        A conversation as the model reads it. Any thread.
        """
    def cancel(self, request_id: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Ask for a request's end; its last delta says how it ended. Any thread.
        """
    def clear_cache(self) -> None:
        """
        Forget every cached prefix that no running request needs, and all pins. Any thread.
        """
    def close(self) -> None:
        """
        End all requests as CANCELLED, stop, and free the model. Idempotent. Any thread.
        """
    def detokenize(self, token_ids: typing.Any, special: bool) -> str:
        """
        Text of token ids; bytes that are no UTF-8 become U+FFFD. Any thread.
        """
    def drain(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> list[Delta]:
        """
        All deltas since the last call, waiting up to timeout_s seconds (0.1 at most) for the first. Any thread.
        """
    def end_of_generation(self) -> list[int]:
        """
        Tokens that end a generation, ascending. Any thread.
        """
    def fail_mask(self, request_id: typing.SupportsInt | typing.SupportsIndex, error: str) -> None:
        """
        There will be no more masks: the request ends with this error. Any thread.
        """
    def fatal_error(self) -> str:
        """
        The first fatal error, or ''. Any thread.
        """
    def finished(self) -> bool:
        """
        True once closed or dead and every delta was drained. Any thread.
        """
    def health(self) -> Health:
        """
        How the engine does now. Any thread.
        """
    def hold(self) -> None:
        """
        No new step begins until release(): what is submitted meanwhile is planned together.
        """
    def metrics(self) -> Metrics:
        """
        As of the last step. Any thread.
        """
    def model_info(self) -> dict[str, typing.Any]:
        """
        Facts of the model and limits in force.
        """
    def pin(self, name: str, prefix: typing.Any, cache_space: typing.SupportsInt | typing.SupportsIndex, ttl_s: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        """
        Evict a prefix last, once it is computed, for ttl_s seconds or, with None, for good. Any thread.
        """
    def release(self) -> None:
        """
        Ends one hold().
        """
    def set_mask(self, request_id: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex, mask: typing_extensions.Buffer) -> None:
        """
        Which tokens may be output token `index` of a request submitted with a mask or triggers, b'' for any; nothing happens if it has ended. Raises InvalidRequestError if the size is wrong. Any thread.
        """
    def start_trace(self) -> None:
        """
        Note from now on what requests' time goes into, and every decode call. Any thread.
        """
    def step(self) -> bool:
        """
        Unthreaded engines: run one step. Returns whether there is more to do. Raises EngineDeadError. Any thread; one waits for the other.
        """
    def submit(self, prompt: typing.Any, params: SamplingParams, streamed: bool = True, cache_space: typing.SupportsInt | typing.SupportsIndex | None = 0, scheduling: SchedulingOptions = ..., mask: typing_extensions.Buffer | None = None, triggers: collections.abc.Sequence[str] = []) -> int:
        """
        Queue one prompt for generation and return at once. Its outputs (best_of, else n) are requests
        with consecutive ids; they are let in together or not at all.
        
        Args:
          prompt: Token ids, shape (n_prompt,), integers in [0, n_vocab). Copied.
          params: Not copied: nothing may change them afterwards.
          streamed: False: only the last delta comes out, with all tokens and text.
          cache_space: Prefixes are shared within a space only, in [0, 2**64). None: shares nothing and
            leaves nothing.
          scheduling: Copied.
          mask: Which tokens may be the first output: bit t % 32 of the 32-bit word t / 32 for token t.
            With it every further output token waits for its set_mask(). None: any.
          triggers: Texts, names of special tokens among them. Without mask, any token may be output until
            one of them stands there; from then on every token waits for its set_mask().
        
        Returns:
          The first request's id, unique for the life of this engine.
        
        Raises:
          InvalidRequestError: A rule is broken; the message states it and the value.
          TypeError: The ids are no integers.
          QueueFullError: As many wait as may.
          EngineDeadError: The engine is closed or stopped.
        
        Thread safety:
          Any thread. Does not wait for a step.
        """
    def take_trace(self) -> tuple[list[TraceSpan], list[TraceCall]]:
        """
        What was noted since start_trace(), which ends with it. Any thread.
        """
    def token_bytes(self, token_id: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        """
        What a token adds to a text; special tokens nothing. Any thread.
        """
    def token_name(self, token: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        """
        What a token is in the text that triggers are looked for in: a special token's name, of others the bytes. Any thread.
        """
    def tokenize(self, text: str, add_special: bool, parse_special: bool, prompt: bool = False) -> list[int]:
        """
        Token ids of a text; of a prompt that cannot fit max_len, none. Any thread.
        """
    def unpin(self, name: str) -> None:
        """
        End a pin. Any thread.
        """
    @property
    def calibration(self) -> Calibration | None:
        """
        What calls cost, as it was given or measured at load; None: neither.
        """
class Embedder:
    """
    The core of llamaherd.Embedder.
    """
    @staticmethod
    def of_engine(engine: BatchEngine, config: EngineConfig, pooling: str) -> Embedder:
        """
        Beside an engine, on its weights, which stay in memory as long as this does.
        """
    def __init__(self, path: str, config: EngineConfig, progress: LoadProgress, pooling: str) -> None:
        """
        Load a model. pooling: mean, cls, last or rank; '': the model's. Raises ModelLoadError, and InvalidRequestError if the pooling is unknown.
        """
    def count_tokens(self, text: str) -> int:
        """
        Tokens of a text as it is computed: max_len of one that is cut. Any thread.
        """
    def embed(self, texts: collections.abc.Sequence[str], truncate: bool) -> tuple[numpy.typing.NDArray[numpy.float32], list[int]]:
        """
        Vectors, float32 of shape (n_texts, n_out), and the indices of texts that were cut. Raises InvalidRequestError. Any thread; one waits for the other.
        """
    def rank(self, query: str, documents: collections.abc.Sequence[str], truncate: bool) -> tuple[numpy.typing.NDArray[numpy.float32], list[int]]:
        """
        The same for a query with each document, by a model of pooling rank.
        """
    @property
    def max_len(self) -> int:
        """
        Tokens of one text at most.
        """
    @property
    def n_calls(self) -> int:
        """
        Calls of the model so far.
        """
    @property
    def n_out(self) -> int:
        """
        Numbers for each text.
        """
    @property
    def pooling(self) -> str:
        ...
def cpu_features() -> list[tuple[str, str]]:
    """
    ggml's CPU features and switches that are on.
    """
def cpu_kernels(config: EngineConfig) -> str:
    """
    Which CPU kernels an engine of this config computes with: stock, reference, or the instruction set of the fast ones. Raises InvalidRequestError if the environment's LLAMAHERD_CPU_KERNELS names none.
    """
def default_n_threads() -> int:
    """
    CPUs this process may run on.
    """
def drain_log() -> list[tuple[int, str]]:
    """
    llama.cpp's log lines since the last call, as (logging level, text). Any thread.
    """
def fail_assertion() -> None:
    """
    Ends the process as a failed check of llama.cpp does. For tests.
    """
def limit_malloc_arenas(n: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Threads that are started from now on share at most n arenas of malloc, where that is glibc's. Its
    default is eight for each core, of which each keeps what its threads once freed: large requests
    then hold memory several times.
    """
def list_devices() -> list[DeviceInfo]:
    """
    The devices found.
    """
def quantization_types() -> list[str]:
    """
    Names that quantize() takes.
    """
def quantize(source: str, target: str, type: str, n_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Write a GGUF file with its weights in another type. Raises ModelLoadError.
    """
def reset_at_signal(number: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    The first signal of this number goes to the handler that is installed; from then on the default
    action is in force, which for SIGTERM and SIGINT ends the process. The kernel does both: it needs no
    thread of the process.
    
    Raises:
      InvalidRequestError: There is no such signal.
    """
def resolve_preset(config: EngineConfig) -> tuple[int, int]:
    """
    (max_seqs, token_budget) in force: the preset's unless they are given.
    """
def serve_rpc(endpoint: str) -> None:
    """
    Lend this machine's CPU to other processes as a device, HOST:PORT. Returns on failure.
    """
__version__: str
llama_cpp_commit: str
llama_cpp_version: str
