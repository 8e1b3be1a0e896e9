"""Sampling parameters, scheduling options and engine options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, SupportsFloat, SupportsIndex

from llamaherd import _core
from llamaherd.config import toml_file
from llamaherd.structured_output import rule
from llamaherd.validation import require_unicode

_NO_MAXIMUM = 2**31 - 1  # of output tokens; requests end at max_len
# pybind11 would convert True to 1, 5.7 of some number types to 5, and bytes to str.
_SCALARS: dict[str, Any] = {
    "bool": bool,
    "int": SupportsIndex,
    "float": (SupportsFloat, SupportsIndex),
    "str": str,
}


def _is_of(value: object, type_name: str) -> bool:
    """Whether a value has a field's type. Containers other than lists are checked by the core."""
    element = re.search(r"Sequence\[(\w+)\]", type_name)
    if element and isinstance(value, list):
        return all(_is_of(item, element[1]) for item in value)
    kind = type_name.removesuffix(" | None")
    if kind not in _SCALARS:
        return True
    return isinstance(value, _SCALARS[kind]) and (kind == "bool" or not isinstance(value, bool))


def _fill(core: Any, options: Any, leave_out: Sequence[str] = ()) -> None:
    """Copy a dataclass's fields to the core object with the same field names, and validate it."""
    for field in fields(options):
        if field.name in leave_out:
            continue
        value = getattr(options, field.name)
        if value is None and field.default is None:
            continue
        if isinstance(value, Mapping):
            value = list(value.items())
        elif isinstance(value, tuple):
            value = list(value)
        try:
            if not _is_of(value, str(field.type)):
                raise TypeError
            setattr(core, field.name, value)
        except TypeError:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    require_unicode(field.name, text)
            if isinstance(value, int) and not isinstance(value, bool) and "int" in str(field.type):
                rule = "in [0, 2**64)" if field.name == "seed" else "a 32-bit number"
                raise _core.InvalidRequestError(
                    f"{field.name} must be {rule}; got {value}"
                ) from None
            raise TypeError(f"{field.name} must be {field.type}; got {value!r}") from None
    core.validate()


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling parameters, stop conditions and output constraint of one request.

    The defaults are those of the OpenAI API: the unmodified distribution of the model. Samplers are
    applied in llama.cpp's order: penalties and biases, top_k, typical_p, top_p, min_p, temperature,
    infill.
    The token mask of an output constraint is applied before top_k.

    Args:
      max_tokens: Maximum output tokens, >= 1; 0 only with prompt_logprobs. None: 512; -1: no
        maximum. Reduced to max_len minus the prompt's tokens.
      min_tokens: Minimum output tokens, >= 0: before, no end-of-generation token, stop token or
        stop string ends the request.
      temperature: In [0, 100]. 0: greedy decoding (of equal logits, the lowest token id).
      top_k: Keep the k most likely tokens, >= 0. 0 or -1: all.
      top_p: Keep the most likely tokens up to this cumulative probability, in (0, 1] (Holtzman et
        al., ICLR 2020). 0: the most likely token only, as top_k 1.
      min_p: Keep tokens with at least this fraction of the highest probability, in [0, 1] (Nguyen
        et al., ICLR 2025).
      typical_p: Keep the most typical tokens up to this cumulative probability, in (0, 1] (Meister
        et al., TACL 2023).
      infill: llama.cpp's sampler for code completion, which ends the output where the model is
        unsure: when end-of-generation tokens are likely, or no other token has a fifth of the
        probability, tokens that begin alike taken together. Keeps at most the 128 most likely
        tokens.
      repetition_penalty: In [0.01, 100]. Divides positive and multiplies negative logits of tokens
        that occur in prompt or output (Keskar et al., 2019). 1: off.
      frequency_penalty: In [-2, 2]. Subtracted from the logit once per occurrence in the output.
      presence_penalty: In [-2, 2]. Subtracted from the logit of each token that occurs in the
        output.
      logit_bias: Token id -> value added to its logit, in [-1000, 1000]; -inf forbids the token.
      seed: In [0, 2**64). Equal seed, prompt and parameters give equal random numbers, independent
        of other requests. None or -1: a random seed per request.
      ignore_eos: Forbid end-of-generation tokens.
      stop_token_ids: Tokens that end the request. Included in token_ids, but not in the text.
      stop: One stop string or several (at most 128, 1 to 1024 bytes each). The text ends before the
        first match. Empty strings are ignored.
      echo: Prepend the prompt's text to the output text.
      logprobs: Return the log-probability of each output token and of this number of most likely
        tokens at its position, in [0, 50]. Computed by softmax over the model's logits, before
        penalties, biases and temperature. None: off.
      prompt_logprobs: The same for prompt tokens, from the second on. Allows max_tokens 0: nothing
        is generated.
      prompt_logprobs_from: Index of the first prompt token with a log-probability, >= 1. Tokens
        before index prompt_logprobs_from - 1 may come from the prefix cache.
      n: Outputs per prompt, in [1, 128]; 1 for private requests. The prompt is computed once. Each
        output has its own random numbers; those of the first equal those of n = 1.
      best_of: Generate this number of outputs, >= n, and return the n with the highest mean
        log-probability. None: n.
      prompt_lookup: Prompt-lookup (n-gram) speculative decoding (Saxena, 2023): draft tokens are
        verified in the same forward pass when additional rows cost little. The output distribution
        does not change. Disabled with logprobs, penalties, or any of the options below.
      json_schema: Constrain the output to JSON of this schema (draft 2020-12; a mapping, a bool, or
        its JSON), formatted as by json.dumps(). Unsupported keywords are rejected. At most one of
        this and the next five options may be set; only max_tokens can cut the output short.
      json_object: Constrain the output to a JSON object.
      regex: Constrain the whole output to a regular expression of Rust's regex crate.
      choice: Constrain the output to one of these texts.
      lark: Constrain the output to a grammar in llguidance's Lark syntax.
      grammar: Constrain the output to a grammar in llama.cpp's GBNF.
        again from those that do not, after top_k and the like have chosen among all.

    Raises:
      InvalidRequestError: A value is out of range.
      TypeError: An option is unknown or of the wrong type.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    infill: bool = False
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    stop: str | Sequence[str] = ()
    echo: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_from: int = 1
    n: int = 1
    best_of: int | None = None
    prompt_lookup: bool = True
    json_schema: Mapping[str, Any] | str | bool | None = None
    json_object: bool = False
    regex: str | None = None
    choice: Sequence[str] | None = None
    lark: str | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if isinstance(stop, list | tuple):
            stop = tuple(text for text in stop if text != "")
        object.__setattr__(self, "stop", stop)
        for name, meaning in (("seed", None), ("top_k", 0), ("max_tokens", _NO_MAXIMUM)):
            value = getattr(self, name)
            if isinstance(value, SupportsIndex) and value == -1:
                object.__setattr__(self, name, meaning)
        if _is_of(self.top_p, "float") and self.top_p == 0:
            object.__setattr__(self, "top_p", 1.0)
            object.__setattr__(self, "top_k", 1)
        self._to_core()
        if self.rule is not None and self.ignore_eos:
            raise _core.InvalidRequestError(
                f"ignore_eos cannot be combined with {self.rule.kind}, which needs an end token; "
                "unset one of them"
            )

    @cached_property
    def rule(self) -> rule.Rule | None:
        """The output constraint; None: unconstrained."""
        return rule.rule_of({kind: getattr(self, kind) for kind in rule.KINDS})

    def _to_core(self) -> _core.SamplingParams:
        """The core's object, shared by all requests: it must not be modified."""
        return self._shared

    @cached_property
    def _shared(self) -> _core.SamplingParams:
        core = _core.SamplingParams()
        _fill(core, self, leave_out=rule.KINDS)
        return core

    def __getstate__(self) -> dict[str, Any]:
        """The fields only: cached properties cannot be pickled."""
        return {option.name: getattr(self, option.name) for option in fields(self)}


@dataclass(frozen=True, kw_only=True)
class SchedulingOptions:
    """Priority, tenant and deadlines of a request; see `BatchEngine.submit`."""

    priority: int = 0
    tenant: str = ""
    deadline_s: float | None = None
    ttft_deadline_s: float | None = None

    def _to_core(self) -> _core.SchedulingOptions:
        core = _core.SchedulingOptions()
        _fill(core, self)
        return core


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Options of an engine. Explicit options override the preset's.

    Args:
      preset: low_latency (4 sequences, 512 tokens per step), balanced (8, 1024) or high_throughput
        (16, 2048).
      n_ctx: KV cells, one per token, shared by all running requests; >= 1. None: the larger of
        1024 per sequence and the trained context length (at most 8192 of it).
      max_len: Maximum tokens of one request, prompt and output; in [2, n_ctx]. None: the smaller of
        n_ctx and the trained context length.
      max_seqs: Maximum number of concurrently running requests, in [1, 64].
      token_budget: Maximum prompt tokens per step, in [64, 65536].
      n_ubatch: Rows per physical batch of llama.cpp, in [16, 4096], >= max_seqs and
        <= token_budget. Larger calls are split. Compute buffers grow with it. None: the smaller of
        token_budget and 512.
      target_itl_ms: Target for inter-token latency under prefill, in milliseconds, > 0: prefill of
        other requests uses the rest of this time per step, at least 16 tokens, and up to four times
        as long while more prompts wait than requests run. None: the time of decoding plus 64 prompt
        tokens.
      max_queued: Maximum queued requests, >= 1, in addition to those that can start immediately;
        each output of a prompt counts. Further requests raise QueueFullError; a prompt with more
        outputs than max_queued + max_seqs raises InvalidRequestError. None: unlimited.
      max_queued_tokens: Maximum prompt tokens in the queue, >= 1, counted per output. A single
        prompt may exceed it. None: unlimited.
      aging_s: Seconds in the queue, > 0, after which a request moves up one priority class. inf:
        never.
      tenant_weights: Tenant -> relative share of tokens, in [1e-6, 1e6], while several tenants have
        queued requests. Unlisted tenants have weight 1.
      n_threads: Maximum CPU threads for the model's computation, in [1, 4 x number of CPUs]. Fewer
        are used while other processes load the CPUs, if that is faster. None: one per CPU available
        to this process.
      poll: Polling level of idle worker threads, in [0, 100]: 0: sleep, 100: spin. High values take
        CPU time from other processes.
      n_gpu_layers: Number of layers offloaded to GPUs. -1: as many as fit.
      devices: Names from list_devices(), or "rpc://HOST:PORT". Empty: all GPUs.
      tensor_split: Relative share of the model per device. Empty: by free memory.
      split_mode: none, layer or row.
      main_gpu: Index of the GPU used with split_mode none.
      use_mmap: Memory-map the model file instead of reading it.
      use_mlock: Lock the model in RAM.
      kv_type: Type of the KV cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl. On
        CPUs, prefill is slow for types other than f16 and, with llamaherd's kernels, q8_0.
      chat_template: Jinja source that replaces the model's chat template. Empty: the model's.
      cpu_kernels: CPU kernels. auto: llamaherd's on CPUs with AVX2, AVX-VNNI or AVX-512 VNNI;
        stock: ggml's; reference: those of deterministic, without its other settings. The
        environment variable LLAMAHERD_CPU_KERNELS overrides this option.
      deterministic: Use CPU kernels whose results for a request are bit-identical for any batch
        composition, cache state and number of threads. 1.3 to 2.9 times as slow; requires
        kv_type f16 or f32, and no GPU.
      prompt_lookup: Allow SamplingParams.prompt_lookup, on models whose KV cache supports removal
        of single tokens (no sliding window, no recurrent state).
      warmup: Run each shape of decode call at load, and calibrate the cost model used for planning.
        The first load of a model with these options on this machine measures for the longer of 2
        seconds and 12 decode steps; the result is saved. False: calibrate while running.
      prefix_cache: Reuse KV data of common prompt prefixes. False: every prompt is computed in
        full.
      cache_ram_mib: Host memory in MiB for prefixes evicted from the KV cache, >= 0.
      cache_dir: Folder for prefixes evicted from host memory, and for all prefixes when the engine
        is closed; later engines with the same model load them. Created if missing; several engines
        may share it. Its files contain prompt and output tokens. Empty: no disk tier.
      cache_disk_mib: Maximum MiB of files in cache_dir, >= 1.

    Raises:
      InvalidRequestError: A value is out of range.
      TypeError: An option is unknown or of the wrong type.
    """

    preset: str = "balanced"
    n_ctx: int | None = None
    max_len: int | None = None
    max_seqs: int | None = None
    token_budget: int | None = None
    n_ubatch: int | None = None
    target_itl_ms: float | None = None
    max_queued: int | None = None
    max_queued_tokens: int | None = None
    aging_s: float = 30.0
    tenant_weights: Mapping[str, float] | None = None
    n_threads: int | None = None
    poll: int = 1
    n_gpu_layers: int = -1
    devices: Sequence[str] = ()
    tensor_split: Sequence[float] = ()
    split_mode: str = "layer"
    main_gpu: int = 0
    use_mmap: bool = True
    use_mlock: bool = False
    kv_type: str = "f16"
    chat_template: str = ""
    cpu_kernels: str = "auto"
    deterministic: bool = False
    prompt_lookup: bool = True
    warmup: bool = True
    prefix_cache: bool = True
    cache_ram_mib: int = 512
    cache_dir: str | os.PathLike[str] = ""
    cache_disk_mib: int = 4096

    def __post_init__(self) -> None:
        if isinstance(self.cache_dir, os.PathLike):
            object.__setattr__(self, "cache_dir", os.fspath(self.cache_dir))
        self._to_core()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> EngineConfig:
        """Load options from a TOML file. Its keys are field names; missing keys have the defaults.

        Raises:
          InvalidRequestError: The file cannot be read, or a key or value is invalid; the message
            names the file, the key and the rule.
        """
        config: EngineConfig = toml_file.read(path, cls)
        return config

    def to_file(self, path: str | os.PathLike[str], *, comment: str = "") -> None:
        """Write the options that differ from the defaults to a TOML file for `from_file()`.

        Args:
          path: Overwritten if it exists.
          comment: Text at the top of the file; each line is prefixed with "#".

        Raises:
          InvalidRequestError: cache_dir is not valid Unicode, as TOML requires.
          OSError: The file cannot be written.
        """
        toml_file.write(path, self, comment=comment)

    def _to_core(self) -> _core.EngineConfig:
        core = _core.EngineConfig()
        _fill(core, self)
        return core
