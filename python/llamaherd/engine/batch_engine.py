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
from llamaherd.engine.prepared_request import Prepared, Preparer
from llamaherd.engine.stream import Stream
from llamaherd.models import resolve
from llamaherd.request.chat import ChatOptions, ChatPrompt
from llamaherd.request.prompt import Message, Prompt, TokenIds, is_messages
from llamaherd.validation import require_unicode

# A prefix is computed when the token behind it is.
_ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0)


class BatchEngine:
    """One model in memory, shared by any number of callers.

    ``submit()`` returns a `Stream` at once; the engine's own thread runs up to ``max_seqs``
    requests together, the others wait. Use it as a context manager, or call `close()`; an engine
    that is dropped is closed too.

    Args:
      model: Path of a GGUF file, a name of the catalogue, or ``hf:org/repo/file.gguf``.
      config: Set-up; None: the defaults.
      progress: Show a bar while downloading and loading. None: if stderr is a terminal.
      threaded: False: no thread of its own; the caller drives `step()`.

    Raises:
      ModelLoadError: The model cannot be had or used; the message says why.
      InvalidRequestError: An option does not fit the model.

    Thread safety:
      All methods may be called from any thread. An engine does not survive ``os.fork()`` into the
      child: there its methods raise `EngineDeadError`.
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
        self._preparer = Preparer(self._core, self._table.guides)
        thread = None
        if threaded:
            # Neither may hold the engine itself: it could then never be dropped.
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
        """Queue one prompt for generation and return at once.

        Args:
          prompt: Text; token ids (a sequence of int or a 1-D integer array, copied); or chat
            messages in OpenAI's format, rendered with the model's chat template. In text, the
            names of special tokens stand for these tokens.
          params: How to generate; None: the defaults.
          chat: With messages: tools and the like; None: the defaults.
          cache: False: a private request, which neither uses what is cached nor leaves anything.
          cache_salt: Only requests of the same salt share prefixes: one for each tenant keeps them
            from learning, by how fast an answer comes, what others have asked.
          priority: Class in [0, 100]; lower ones first, and they may preempt higher ones. Every
            aging_s seconds of waiting it becomes lower by 1.
          tenant: On whose account it runs, at most 256 bytes: within a class tenants get tokens in
            proportion to EngineConfig.tenant_weights.
          deadline_s: Seconds from now, > 0, by which it should have ended; then it ends with
            FinishReason.DEADLINE and what it has, and before it starts as soon as it is predicted
            to be too late. None: none.
          ttft_deadline_s: The same for its first token.

        Returns:
          The stream of its output.

        Raises:
          InvalidRequestError: A rule is broken; the message states it and the value.
          QueueFullError: As many requests wait as EngineConfig.max_queued or max_queued_tokens
            allow; retry_after_s says when an equal one is expected to find a place.
          TypeError: The prompt is of none of these types.
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
        """Make ready what outputs must obey.

        Raises:
          InvalidRequestError: It cannot be used; the message says why.
        """
        self._require_own_process()
        if params.rule is not None:
            self._table.guides.make(params.rule)

    def is_ready(self, params: SamplingParams) -> bool:
        """Whether what outputs must obey was made ready lately, so that a submit need not wait."""
        return params.rule is None or self._table.guides.is_ready(params.rule)

    def _compute_prefix(self, prefix: Prompt, space: int) -> tuple[list[int], Stream]:
        """Token ids of a prefix, and a request that computes them."""
        if is_messages(prefix):
            prefix = self.apply_chat_template(prefix, add_generation_prompt=False).text
        prepared = self._prepare(prefix, _ONE_TOKEN)
        stream = self._queue(prepared, space, SchedulingOptions(), keep_deltas=True)
        return [int(token) for token in prepared.token_ids], stream

    def _prepare(
        self, prompt: Prompt, params: SamplingParams | None, chat: ChatOptions | None = None
    ) -> Prepared:
        # Before any lock is touched: a fork may have copied it locked.
        self._require_own_process()
        return self._preparer.prepare(prompt, params, chat)

    def _queue(
        self,
        prepared: Prepared,
        space: int | None,
        scheduling: SchedulingOptions,
        *,
        keep_deltas: bool,
    ) -> Stream:
        core_scheduling = scheduling._to_core()
        params, obeyed = prepared.params, prepared.obeyed
        n_outputs = params.best_of or params.n
        keep_logprobs = params.logprobs is not None
        if n_outputs > params.n and not keep_logprobs:
            params = _core.SamplingParams(params)
            params.logprobs = 0  # by which the best are found
        # Under the lock, so that the pump finds the stream when it sees the request's first delta.
        with self._table.lock:
            first = self._core.submit(
                prepared.token_ids,
                params,
                streamed=keep_deltas or obeyed is not None,
                cache_space=space,
                scheduling=core_scheduling,
                mask=obeyed.first_mask if obeyed else None,
                triggers=obeyed.words if obeyed else [],
            )
            request_ids = range(first, first + n_outputs)
            if obeyed is not None:
                self._table.masks.start(request_ids, obeyed)
            stream = Stream(
                request_ids,
                self._core.cancel,
                n_kept=params.n,
                keep_deltas=keep_deltas,
                keep_logprobs=keep_logprobs,
                new_reader=prepared.reader,
            )
            self._table.streams.update(dict.fromkeys(request_ids, stream))
        return stream

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """What is queued within is planned into the same step."""
        self._core.hold()
        try:
            yield
        finally:
            self._core.release()

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text.

        Args:
          text: Any text.
          add_special: Add the model's begin and end tokens as it is configured to.
          parse_special: Names of special tokens stand for these tokens.

        Raises:
          InvalidRequestError: The text holds a lone surrogate, which no encoding has, or more than
            the tokenizer takes: 16384 different texts between special tokens, of a BPE model
            1 MiB in one word, with some (deepseek-llm, superbpe) 512 blanks or digits in a row.
        """
        self._require_own_process()
        if not isinstance(text, str):
            raise TypeError(f"text must be a str; got {type(text).__name__}")
        require_unicode("prompt", text)
        return self._core.tokenize(text, add_special, parse_special)

    def detokenize(self, token_ids: TokenIds, *, special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD.

        Args:
          token_ids: Shape (n,), integers in [0, n_vocab).
          special: Write special tokens by their names instead of leaving them out.

        Raises:
          InvalidRequestError: An id is out of range.
        """
        self._require_own_process()
        return self._core.detokenize(token_ids, special)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text, not always whole characters; special tokens nothing.

        Args:
          token_id: In [0, n_vocab).

        Raises:
          InvalidRequestError: It is out of range.
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
        """A conversation as the model reads it: its text, and strings (stop) that end the answer.

        Args:
          messages: OpenAI's format: role (system, developer, user, assistant or tool), content.
          chat: Tools and the like; None: the defaults.
          add_generation_prompt: End with the beginning of the assistant's turn.

        Raises:
          InvalidRequestError: A message breaks the format, the template refuses it, or the model
            has no template.
        """
        self._require_own_process()
        options = chat or ChatOptions()
        return options.render(self._core, messages, add_generation_prompt=add_generation_prompt)

    def step(self) -> bool:
        """Run one step of an engine made with ``threaded=False``; streams get its output.

        Returns:
          Whether there is more to do.

        Raises:
          EngineDeadError: The engine is closed, or stopped at a fatal error.
          LlamaHerdError: The engine has a thread of its own.
        """
        try:
            return self._core.step()
        finally:
            self._table.deliver(self._core.drain(0))
            native_log.forward()

    @property
    def cache(self) -> PrefixCacheControl:
        """What the engine remembers of prompts and answers, to look at and to steer."""
        # Made anew: kept here it would hold the engine, which could then never be dropped.
        return PrefixCacheControl(self._core, self._compute_prefix)

    @property
    def calibration(self) -> _core.Calibration | None:
        """What decode calls cost, as known when the engine was made; None with warmup=False."""
        return self._core.calibration

    def metrics(self) -> Metrics:
        """Counters since the engine was made and its present state, as of the last step."""
        return self._core.metrics()

    def health(self) -> Health:
        """How the engine does: whether it is closed, dead, or gets nowhere; and where it stands.

        A decode call that takes 100 times as long as predicted (and at least 5 seconds), or
        requests of which no token is computed for 15 seconds, make it not ok; that is also logged,
        once, as a warning.
        """
        return self._core.health()

    @property
    def fatal_error(self) -> str:
        """The error that stopped the engine; empty: none has."""
        return self._core.fatal_error()

    def start_trace(self) -> None:
        """Note from now on what requests' time goes into, and every decode call."""
        self._core.start_trace()

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write what was noted since `start_trace()`, and end it.

        Args:
          path: File to write, in Chrome's trace event format; ui.perfetto.dev opens it.

        Raises:
          OSError: The file cannot be written.
        """
        trace.write(Path(path), *self._core.take_trace())

    def model_info(self) -> dict[str, Any]:
        """Facts of the model (sizes, metadata) and limits in force (n_ctx, max_len, max_seqs)."""
        return self._core.model_info()

    def close(self) -> None:
        """End all requests as CANCELLED, stop the threads and free the model. Idempotent."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return not self._finalizer.alive

    def _require_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise EngineDeadError(
                f"this engine belongs to process {self._pid} and was forked into process "
                f"{os.getpid()}; make a new one here"
            )

    def __enter__(self) -> BatchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> BatchEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)
