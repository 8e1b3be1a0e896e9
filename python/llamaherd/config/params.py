"""What a caller may set: sampling of one request, set-up of one engine."""

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

# pybind11 would take True for 1, 5.7 of some number types for 5, bytes for a string.
_SCALARS: dict[str, Any] = {
    "bool": bool,
    "int": SupportsIndex,
    "float": (SupportsFloat, SupportsIndex),
    "str": str,
}


def _is_of(value: object, type_name: str) -> bool:
    """Whether a value is of a field's type; other containers than lists are left to the core."""
    element = re.search(r"Sequence\[(\w+)\]", type_name)
    if element and isinstance(value, list):
        return all(_is_of(item, element[1]) for item in value)
    kind = type_name.removesuffix(" | None")
    if kind not in _SCALARS:
        return True
    return isinstance(value, _SCALARS[kind]) and (kind == "bool" or not isinstance(value, bool))


def _fill(core: Any, options: Any, leave_out: Sequence[str] = ()) -> None:
    """Copies a dataclass's fields to the core's holder of the same names and validates them."""
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
    """How the tokens of one request are chosen, and when it stops.

    The defaults are the OpenAI API's: the model's own distribution, unchanged. The steps are taken
    in llama.cpp's order: penalties and biases, top_k, typical_p, top_p, min_p, temperature.

    Args:
      max_tokens: Output tokens at most, >= 1; 0 only with prompt_logprobs. None: 512. Cut to what
        fits beside the prompt in max_len.
      min_tokens: Output tokens at least, >= 0: until then no end-of-generation token, stop token
        or stop string ends the request.
      temperature: In [0, 100]. 0: greedy, always the likeliest token (the lowest id of equals).
      top_k: Keep the k likeliest tokens, >= 0. 0: all.
      top_p: Keep the likeliest tokens up to this mass, in (0, 1] (Holtzman et al., ICLR 2020).
      min_p: Keep tokens at least this fraction as likely as the likeliest, in [0, 1] (Nguyen et
        al., ICLR 2025).
      typical_p: Keep tokens of typical surprise up to this mass, in (0, 1] (Meister et al., TACL
        2023).
      repetition_penalty: In [0.01, 100]. Divides positive and multiplies negative logits of tokens
        seen in prompt or output (Keskar et al., 2019). 1: off.
      frequency_penalty: In [-2, 2]. Subtracted per occurrence in the output.
      presence_penalty: In [-2, 2]. Subtracted once for each token that is in the output.
      logit_bias: Token id -> number added to its logit, in [-1000, 1000]; -inf forbids it.
      seed: In [0, 2**64). The same seed, prompt and parameters give the same random numbers
        whatever else the engine runs. None: drawn anew for each request.
      ignore_eos: Forbid end-of-generation tokens.
      stop_token_ids: Tokens that end the request. They are in token_ids, not in the text.
      stop: One string or several (128 at most, 1 to 1024 bytes each) that end the request; the text
        ends before the first that appears.
      echo: Begin the text with the prompt's.
      logprobs: Give the log-probability of each output token, and the likeliest so many tokens in
        its place, in [0, 50]. They are the model's own, of the whole softmax, before penalties,
        biases and temperature. None: none.
      prompt_logprobs: The same for prompt tokens, from the second on. With it max_tokens may be 0:
        then nothing is generated.
      prompt_logprobs_from: The first prompt token that gets one, >= 1; those before the token in
        front of it may come from the cache.
      n: Outputs for the prompt, in [1, 128]; 1 if the request is private. The prompt is computed
        once; each output has random numbers of its own, the first those that n = 1 would have.
      best_of: Generate so many, >= n, and keep the n of the highest mean log-probability. None: n.
      prompt_lookup: Guess tokens where the text repeats itself, and compute them along with the
        next one, where calls of more rows cost little more (Saxena, 2023). Each is drawn from the
        model's own distribution all the same. Not done with logprobs, penalties, or any of the
        following.
      json_schema: The output is JSON of this schema (draft 2020-12; a mapping, a bool, or its
        JSON), written as json.dumps() writes it. A keyword that is not supported is refused. Of
        this and the next five one may be set; the output obeys it unless max_tokens cuts it short.
      json_object: The output is any JSON object.
      regex: The output matches this regular expression of Rust's regex crate, as a whole.
      choice: The output is one of these texts.
      lark: The output is of this grammar, in llguidance's Lark syntax.
      grammar: The output is of this grammar, in llama.cpp's GBNF. A token that breaks it is drawn
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
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        self._to_core()
        if self.rule is not None and self.ignore_eos:
            raise _core.InvalidRequestError(
                f"ignore_eos forbids the end that {self.rule.kind} needs; got both"
            )

    @cached_property
    def rule(self) -> rule.Rule | None:
        """What the output must obey."""
        return rule.rule_of({kind: getattr(self, kind) for kind in rule.KINDS})

    def _to_core(self) -> _core.SamplingParams:
        """The core's form, which all requests share: it must not be changed."""
        return self._shared

    @cached_property
    def _shared(self) -> _core.SamplingParams:
        core = _core.SamplingParams()
        _fill(core, self, leave_out=rule.KINDS)
        return core

    def __getstate__(self) -> dict[str, Any]:
        """The options alone: what is cached cannot be pickled."""
        return {option.name: getattr(self, option.name) for option in fields(self)}


@dataclass(frozen=True, kw_only=True)
class SchedulingOptions:
    """Whose request it is and by when it should be served; see `BatchEngine.submit`."""

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
    """How an engine is set up. Explicit options win over the preset's.

    Args:
      preset: low_latency (4 sequences, 512 tokens a step), balanced (8, 1024) or high_throughput
        (16, 2048).
      n_ctx: KV cells, one per token, shared by all running requests; >= 1. None: the larger of
        1024 per sequence and the trained context (of it at most 8192).
      max_len: Tokens of one request, prompt and output together; in [2, n_ctx]. None: the smaller
        of n_ctx and the trained context.
      max_seqs: Requests that run at once, in [1, 64].
      token_budget: Prompt tokens of one step at most, in [64, 65536].
      n_ubatch: Rows that llama.cpp computes at once, in [16, 4096], at least max_seqs and at most
        token_budget: a longer call is computed in pieces of it. Compute buffers grow with it. None:
        the smaller of token_budget and 512.
      target_itl_ms: Milliseconds that may lie between two tokens of a running request because of
        others' prompts, > 0: prefill takes what is left of them, at least 16 tokens a step, and up
        to four times as long while more prompts are in line than requests run. None: as long as
        decoding and 64 prompt tokens take.
      max_queued: Requests that may wait, >= 1, beside those that can start at once: one for each
        output of a prompt. More are refused with QueueFullError, and a prompt with more outputs
        than max_queued + max_seqs with InvalidRequestError. None: any number.
      max_queued_tokens: Tokens of their prompts, >= 1, counted for each output; a single prompt
        may have more. None: any number.
      aging_s: Seconds of waiting, > 0, after which a request goes up one priority class. inf:
        never.
      tenant_weights: Tenant -> share of the tokens relative to others', in [1e-6, 1e6], while both
        have requests waiting. Those not named have 1.
      n_threads: CPU threads of the model's computation, at most, in [1, 4 x the machine's CPUs];
        while other processes keep CPUs busy, fewer are used where that is quicker. None: one per
        CPU this process may run on.
      poll: How eagerly idle workers wait for work, in [0, 100]: 0 sleeps at once, 100 spins. High
        values starve other processes.
      n_gpu_layers: Layers kept on GPUs. -1: all that fit.
      devices: Names from list_devices(), or "rpc://HOST:PORT". Empty: all GPUs found.
      tensor_split: Share of the model for each device. Empty: by free memory.
      split_mode: none, layer or row.
      main_gpu: Index of the GPU used with split_mode none.
      use_mmap: Map the model file into memory instead of reading it.
      use_mlock: Keep the model in RAM.
      kv_type: Type of the KV cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl. On
        CPUs anything but f16 and, with our kernels, q8_0 prefills slowly.
      chat_template: Jinja source that replaces the model's own chat template. Empty: the model's.
      cpu_kernels: Which kernels compute on the CPU. auto: ours where the CPU has AVX2, AVX-VNNI
        or AVX-512 VNNI; stock: ggml's own; reference: those of deterministic, without what
        else that asks for. The environment's LLAMAHERD_CPU_KERNELS wins over this option.
      deterministic: Compute on the CPU with kernels whose results for a request do not depend on
        its batch mates, on the cache's state or on the number of threads, to the bit. Several
        times slower; needs kv_type f16 or f32 and no GPU.
      prompt_lookup: Allow what SamplingParams.prompt_lookup asks for, on models whose memory can
        forget single tokens (no sliding window, no recurrent state).
      warmup: Run each shape of decode call at load and measure what it costs, which is what steps
        are planned by: for the longer of 2 seconds and 12 decode steps, the first time a model is
        used with these options on this machine; then kept. False: learn it while running.
      prefix_cache: Share what prompts begin with. False: every request is computed whole.
      cache_ram_mib: Host memory in MiB for prefixes that had to leave the KV cache, >= 0.
      cache_dir: Folder for prefixes that had to leave host memory, and for all when the engine is
        closed; one started later on the same model finds them. Made if missing; several engines may
        share it. Its files hold what was asked and answered. Empty: none.
      cache_disk_mib: MiB of files in it at most, >= 1.

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
        """Options from a TOML file, whose keys are this class's; those it lacks are the defaults.

        Raises:
          InvalidRequestError: The file cannot be read, or a key or value breaks a rule; the message
            names the file, the key and the rule.
        """
        config: EngineConfig = toml_file.read(path, cls)
        return config

    def to_file(self, path: str | os.PathLike[str], *, comment: str = "") -> None:
        """Write the options that differ from the defaults to a TOML file, for `from_file()`.

        Args:
          path: Written over if it exists.
          comment: Put first, each line behind a "#".

        Raises:
          OSError: The file cannot be written.
        """
        toml_file.write(path, self, comment=comment)

    def _to_core(self) -> _core.EngineConfig:
        core = _core.EngineConfig()
        _fill(core, self)
        return core
