"""BatchEngine: many requests over one model, from any thread or asyncio task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llamaherd import _core
from llamaherd._core import EngineDeadError, Health, Metrics
from llamaherd.config.params import EngineConfig, SamplingParams, SchedulingOptions
from llamaherd.engine import calibration_cache, native_log, trace
from llamaherd.engine.delivery import StreamTable, close, pump
from llamaherd.engine.model_loading import load_core
from llamaherd.engine.prefix_cache import PrefixCacheControl, request_space
from llamaherd.engine.prepared_request import PreparedRequest, RequestPreparer
from llamaherd.engine.prompt_tokenizer import PromptTokenizer
from llamaherd.engine.stream import Stream
from llamaherd.models import resolve
from llamaherd.request.chat import ChatOptions, ChatPrompt
from llamaherd.request.prompt import Message, Prompt, TokenIds, is_messages

# The KV data of a prefix is complete once the token after it is sampled.
_ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0)


class BatchEngine:
    """An inference engine with one loaded model, shared by any number of callers.

    ``submit()`` returns a `Stream` immediately. The engine's thread batches up to ``max_seqs``
    requests; further requests are queued. Use the engine as a context manager, or call `close()`;
    garbage collection closes it too.

    Args:
      model: Path of a GGUF file, catalogue name, or ``hf:org/repo/file.gguf``.
      config: Engine options. None: the defaults.
      progress: Show a progress bar while downloading and loading. None: if stderr is a terminal.
      threaded: False: no engine thread; the caller calls `step()`.

    Raises:
      ModelLoadError: The model was not found or cannot be loaded; the message states the reason.
      InvalidRequestError: An option does not fit the model.

    Thread safety:
      All methods may be called from any thread. In a child process of ``os.fork()`` methods raise
      `EngineDeadError`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        config: EngineConfig | None = None,
        *,
        progress: bool | None = None,
        threaded: bool = True,
    ) -> None:
        self.config = config if config is not None else EngineConfig()
        if not isinstance(self.config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig; got {type(config).__name__}")
        self._pid = os.getpid()
        self.path: Path = resolve(model, progress=progress)
        kept = calibration_cache.load(self.path, self.config) if self.config.warmup else None
        self._core = load_core(
            self.path,
            self.config._to_core(),
            progress=progress,
            threaded=threaded,
            calibration=kept,
        )
        if kept is None and self._core.calibration is not None:
            calibration_cache.store(self.path, self.config, self._core.calibration)
        self._table = StreamTable(self._core, threaded=threaded)
        self._tokenizer = PromptTokenizer(self._core)
        self._preparer = RequestPreparer(self._core, self._table.guides, self._tokenizer)
        thread = None
        if threaded:
            # No reference to self in either: it would keep the engine alive.
            thread = threading.Thread(
                target=pump, args=(self._core, self._table), name="llamaherd-pump", daemon=True
            )
        self._finalizer = weakref.finalize(
            self, close, self._core, self._table, thread, os.getpid()
        )
        if thread is not None:
            thread.start()

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        chat: ChatOptions | None = None,
        cache: bool = True,
        cache_salt: str = "",
        priority: int = 0,
        tenant: str = "",
        deadline_s: float | None = None,
        ttft_deadline_s: float | None = None,
    ) -> Stream:
        """Queue one prompt for generation and return immediately.

        Args:
          prompt: Text; token ids (a sequence of int or a 1-D integer array, copied); chat messages
            in OpenAI's format, rendered with the model's chat template; or an `InfillPrompt`. Names
            of special tokens in a text are parsed as these tokens. The begin token (BOS) that the
            model's tokenizer adds is not added to a text that begins with it, with a warning of
            the logger "llamaherd", once per engine.
          params: Sampling parameters. None: the defaults.
          chat: Chat options, for messages only. None: the defaults.
          cache: False: a private request: it neither reads nor writes the prefix cache.
          cache_salt: Cache namespace: only requests with the same salt share prefixes. A salt per
            tenant prevents tenants from detecting each other's prompts by response times.
          priority: Class in [0, 100]. Lower values are scheduled first and may preempt higher ones.
            The class decreases by 1 for every aging_s seconds in the queue.
          tenant: Owner of the request, at most 256 bytes. Within a class, tenants receive tokens in
            proportion to EngineConfig.tenant_weights.
          deadline_s: Seconds from now, > 0. At the deadline the request finishes with
            FinishReason.DEADLINE and its output so far; a queued request finishes as soon as it is
            predicted to miss its deadline. None: no deadline.
          ttft_deadline_s: The same for the first token.

        Returns:
          The stream of its output.

        Raises:
          InvalidRequestError: An argument is invalid; the message states the rule and the value.
          ContextLengthError: The prompt does not fit max_len (an InvalidRequestError, too).
          QueueFullError: EngineConfig.max_queued or max_queued_tokens is reached; retry_after_s
            estimates when an equal request will be accepted.
          TypeError: The prompt has none of these types.
          EngineDeadError: The engine is closed or stopped.
        """
        space = request_space(cache=cache, cache_salt=cache_salt)
        scheduling = SchedulingOptions(
            priority=priority,
            tenant=tenant,
            deadline_s=deadline_s,
            ttft_deadline_s=ttft_deadline_s,
        )
        prepared = self._prepare(prompt, params, chat)
        return self._queue(prepared, space, scheduling, keep_deltas=True)

    def check(self, params: SamplingParams) -> None:
        """Compile the output constraint of params, so that `submit()` finds it compiled.

        Raises:
          InvalidRequestError: The constraint is invalid; the message states the reason.
        """
        self._require_own_process()
        if params.rule is not None:
            self._table.guides.make(params.rule)

    def is_ready(self, params: SamplingParams) -> bool:
        """Whether the output constraint of params is compiled (or there is none)."""
        return params.rule is None or self._table.guides.is_ready(params.rule)

    def _compute_prefix(self, prefix: Prompt, space: int) -> tuple[list[int], Stream]:
        """Token ids of a prefix, and the request that computes them."""
        if is_messages(prefix):
            prefix = self.apply_chat_template(prefix, add_generation_prompt=False).text
        prepared = self._prepare(prefix, _ONE_TOKEN)
        stream = self._queue(prepared, space, SchedulingOptions(), keep_deltas=True)
        return [int(token) for token in prepared.token_ids], stream

    def _prepare(
        self, prompt: Prompt, params: SamplingParams | None, chat: ChatOptions | None = None
    ) -> PreparedRequest:
        # Before any lock is acquired: a fork may have copied it in the locked state.
        self._require_own_process()
        return self._preparer.prepare(prompt, params, chat)

    def _queue(
        self,
        prepared: PreparedRequest,
        space: int | None,
        scheduling: SchedulingOptions,
        *,
        keep_deltas: bool,
    ) -> Stream:
        core_scheduling = scheduling._to_core()
        params, constraint = prepared.params, prepared.constraint
        n_outputs = params.best_of or params.n
        keep_logprobs = params.logprobs is not None
        if n_outputs > params.n and not keep_logprobs:
            params = _core.SamplingParams(params)
            params.logprobs = 0  # needed to rank the outputs
        # Under the lock: the pump must find the stream when it receives the first delta.
        with self._table.lock:
            first = self._core.submit(
                prepared.token_ids,
                params,
                streamed=keep_deltas or constraint is not None,
                cache_space=space,
                scheduling=core_scheduling,
                mask=constraint.first_mask if constraint else None,
                triggers=constraint.words if constraint else [],
            )
            request_ids = range(first, first + n_outputs)
            if constraint is not None:
                self._table.masks.start(request_ids, constraint)
            stream = Stream(
                request_ids,
                self._core.cancel,
                n_kept=params.n,
                keep_deltas=keep_deltas,
                keep_logprobs=keep_logprobs,
                new_reader=prepared.reader,
                unenforced=prepared.unenforced,
                ask_progress=self._core.progress,
            )
            self._table.streams.update(dict.fromkeys(request_ids, stream))
        return stream

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Plan all requests submitted within the block in the same step."""
        self._core.hold()
        try:
            yield
        finally:
            self._core.release()

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Tokenize a text.

        Args:
          text: Any text.
          add_special: Add begin and end tokens as configured in the model; the begin token not to
            a text that begins with it, if its name is parsed.
          parse_special: Parse names of special tokens as these tokens.

        Raises:
          InvalidRequestError: The text contains a lone surrogate, or exceeds a limit of the
            tokenizer: 16384 different texts between special tokens; for BPE models 1 MiB in one
            word, for some (deepseek-llm, superbpe) 512 blanks or digits in a row.
        """
        self._require_own_process()
        if not isinstance(text, str):
            raise TypeError(f"text must be a str; got {type(text).__name__}")
        return self._tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: TokenIds, *, special: bool = False) -> str:
        """Detokenize token ids. Invalid UTF-8 is replaced by U+FFFD.

        Args:
          token_ids: Shape (n,), integers in [0, n_vocab).
          special: Write the names of special tokens instead of omitting them.

        Raises:
          InvalidRequestError: An id is out of range.
        """
        self._require_own_process()
        return self._core.detokenize(token_ids, special)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, possibly an incomplete character; empty for special tokens.

        Args:
          token_id: In [0, n_vocab).

        Raises:
          InvalidRequestError: The id is out of range.
        """
        self._require_own_process()
        return self._core.token_bytes(token_id)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        chat: ChatOptions | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> ChatPrompt:
        """Render messages with the model's chat template: the text and its stop strings.

        Args:
          messages: OpenAI's format: role (system, developer, user, assistant or tool), content (a
            text, or a list of parts of type text, which llama.cpp joins with line feeds unless the
            template reads parts). Leading system and developer messages are merged into one.
          chat: Chat options, without effect of truncation. None: the defaults.
          add_generation_prompt: Append the beginning of the assistant's turn, which continues a
            last assistant message as ChatOptions.continue_final_message says.

        Raises:
          InvalidRequestError: A message is malformed, the template rejects it, or the model has no
            template.
        """
        self._require_own_process()
        options = chat or ChatOptions()
        return options.render(self._core, messages, add_generation_prompt=add_generation_prompt)

    def step(self) -> bool:
        """Run one step of an engine made with ``threaded=False`` and deliver output to streams.

        Returns:
          Whether requests are left.

        Raises:
          EngineDeadError: The engine is closed, or stopped after a fatal error.
          LlamaHerdError: The engine has its own thread.
        """
        try:
            return self._core.step()
        finally:
            self._table.deliver(self._core.drain(0))
            native_log.forward()

    @property
    def cache(self) -> PrefixCacheControl:
        """The prefix cache: its metrics, pins, and how to clear it."""
        # Not stored: it refers to the engine, and the cycle would keep the engine alive.
        return PrefixCacheControl(self._core, self._compute_prefix)

    @property
    def calibration(self) -> _core.Calibration | None:
        """Times of decode calls, loaded or measured at construction; None with warmup=False."""
        return self._core.calibration

    def metrics(self) -> Metrics:
        """Counters since construction and current state, as of the last step."""
        return self._core.metrics()

    def health(self) -> Health:
        """Whether the engine is closed, dead or stalled, and its current activity.

        It is stalled while a decode call takes over 100 times its predicted time (and at least 5
        seconds), or when no token of a request has been computed for 15 seconds. A stall is also
        logged, once, as a warning.
        """
        return self._core.health()

    @property
    def fatal_error(self) -> str:
        """Message of the error that stopped the engine; empty if none."""
        return self._core.fatal_error()

    def start_trace(self) -> None:
        """Start recording decode calls and the time spans of requests."""
        self._core.start_trace()

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Stop recording, and write the events since `start_trace()` to a file.

        Args:
          path: File to write, in Chrome's trace event format; ui.perfetto.dev opens it.

        Raises:
          OSError: The file cannot be written.
        """
        trace.write(Path(path), *self._core.take_trace())

    def model_info(self) -> dict[str, Any]:
        """Model properties (sizes, metadata) and limits in force (n_ctx, max_len, max_seqs)."""
        return self._core.model_info()

    def close(self) -> None:
        """Finish all requests as CANCELLED, stop the threads, free the model. Idempotent."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return not self._finalizer.alive

    def _require_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise EngineDeadError(
                f"an engine cannot be used after fork: created in process {self._pid}, called in "
                f"process {os.getpid()}; create a new engine in this process"
            )

    def __enter__(self) -> BatchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> BatchEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)
