"""Offline inference: LLM."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import cast

from llamaherd._core import Delta, InvalidRequestError, NotGenerativeError
from llamaherd.config.params import EngineConfig, SamplingParams, SchedulingOptions
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.engine.model_loading import shows_progress
from llamaherd.engine.prefix_cache import request_space
from llamaherd.offline import scoring
from llamaherd.offline.embedder import Embedder, RerankResult, Text, Vectors
from llamaherd.offline.progress import Bar, RichBar
from llamaherd.offline.prompt_batch import PromptBatch
from llamaherd.offline.scoring import Choice, Continuation, Perplexity, Piece, Score
from llamaherd.request.chat import ChatOptions
from llamaherd.request.infill import InfillPrompt
from llamaherd.request.prompt import Message, Prompt, is_messages
from llamaherd.request.result import RequestOutput


class LLM:
    """A model for offline inference: scripts, notebooks, evaluations.

    Args:
      model: Path of a GGUF file, catalogue name, or ``hf:org/repo/file.gguf``.
      config: Engine options. None: the defaults.
      pooling: Pooling type of `embed()` and `rerank()`, as in `Embedder`: overrides the model
        file's, which generating models do not have.
      progress: Show progress bars while loading and generating. None: if stderr is a terminal.

    Raises:
      ModelLoadError: The model was not found or cannot be loaded; the message states the reason.
      InvalidRequestError: An option or the pooling does not fit the model.

    Thread safety:
      All methods may be called from any thread.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        config: EngineConfig | None = None,
        *,
        pooling: str | None = None,
        progress: bool | None = None,
    ) -> None:
        self._progress = progress
        self._pooling = pooling
        self._engine: BatchEngine | None = None
        self._embedder: Embedder | None = None
        self._embedder_lock = threading.Lock()
        try:
            self._engine = BatchEngine(model, config, progress=progress)
        except NotGenerativeError:
            self._embedder = Embedder(model, config, pooling=pooling, progress=progress)
        if pooling is not None:
            self._require_pooling()

    @property
    def generates(self) -> bool:
        """Whether the model generates text; False for embedding models."""
        return self._engine is not None

    @property
    def engine(self) -> BatchEngine:
        """The engine that generates.

        Raises:
          NotGenerativeError: The model is an embedding model.
        """
        if self._engine is None:
            raise NotGenerativeError(
                "this model is an embedding model and cannot generate: use embed() or rerank()"
            )
        return self._engine

    @property
    def embedder(self) -> Embedder:
        """The embedder of `embed()` and `rerank()`. Created on first use, on the engine's weights.

        Raises:
          ModelLoadError: Its context cannot be created.
        """
        with self._embedder_lock:
            if self._embedder is None:
                self._embedder = Embedder(self.engine, pooling=self._pooling)
            return self._embedder

    @property
    def max_len(self) -> int:
        """Maximum tokens of a request, or of a text if the model is an embedding model."""
        if self._engine is None:
            return self.embedder.max_len
        return int(self._engine.model_info()["max_len"])

    def _require_pooling(self) -> None:
        """Create the embedder, so that a pooling that does not fit is reported now."""
        try:
            assert self.embedder
        except BaseException:
            self.close()
            raise

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        chat: ChatOptions | None = None,
        cache: bool = True,
        cache_salt: str = "",
        priority: int = 0,
        tenant: str = "",
    ) -> list[RequestOutput]:
        """Generate for a batch of prompts.

        Prompts are sorted so that common prefixes are computed once. If the engine's queue is
        bounded, the call waits for free places.

        Args:
          prompts: One prompt or a sequence of prompts; each a text, token ids, chat messages or an
            `InfillPrompt`.
          params: Sampling parameters, for all prompts or one per prompt. None: the defaults.
          progress: Show a progress bar. None: as set in the constructor.
          chat: Chat options, for prompts of messages. None: the defaults.
          cache: False: private requests: they neither read nor write the prefix cache.
          cache_salt: Cache namespace: only prompts with the same salt share prefixes.
          priority: As in `BatchEngine.submit`.
          tenant: As in `BatchEngine.submit`.

        Returns:
          One output per prompt, in order. An invalid prompt (for instance one that is too long)
          yields an output with FinishReason.ERROR and an error message; others are not affected.

        Raises:
          TypeError: A prompt has none of these types.
          InvalidRequestError: The numbers of prompts and params differ.
          EngineDeadError: The engine is closed or stopped.
          KeyboardInterrupt: Raised after all requests have been cancelled.
        """
        batch = _as_list(prompts)
        space = request_space(cache=cache, cache_salt=cache_salt)
        scheduling = SchedulingOptions(priority=priority, tenant=tenant)
        jobs = list(zip(batch, _per_prompt(params, len(batch)), strict=True))
        return self._run(jobs, progress, chat=chat, space=space, scheduling=scheduling)

    def score(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[Sequence[Continuation]],
        *,
        cache_salt: str = "",
        progress: bool | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[Score]]:
        """Compute log-probabilities of continuations of prompts. Common prefixes are computed once.

        Args:
          prompts: Each a text, token ids or chat messages.
          continuations: For each prompt a list of continuations, each a text or token ids.
          cache_salt: Cache namespace: only prompts with the same salt share prefixes.
          progress: As in `generate`.
          stop: When set, unfinished scores are cancelled and get an error.

        Returns:
          For each prompt one score per continuation, in order. An invalid one (for instance too
          long, or empty) yields a score with an error message; others are not affected.

        Raises:
          InvalidRequestError: The numbers of prompts and lists of continuations differ.
          EngineDeadError: The engine is closed or stopped.
        """
        if len(prompts) != len(continuations):
            raise InvalidRequestError(
                f"there are {len(prompts)} prompts but {len(continuations)} lists of continuations"
            )
        pieces = [
            scoring.encode(self.engine, prompt, some, stop)
            for prompt, some in zip(prompts, continuations, strict=True)
        ]
        return self._score(pieces, progress, stop, cache_salt)

    def choose(self, prompt: Prompt, choices: Sequence[str], *, per_token: bool = False) -> Choice:
        """Return the most likely continuation of a prompt.

        Args:
          prompt: A text, token ids or chat messages.
          choices: Texts, at least one.
          per_token: Compare mean log-probabilities per token, which does not favour short texts.

        Raises:
          InvalidRequestError: choices is empty, or a choice is invalid.
        """
        if len(choices) == 0:
            raise InvalidRequestError("there must be at least 1 choice; got 0")
        scores = self.score([prompt], [choices], progress=False)[0]
        for score in scores:
            if score.error:
                raise InvalidRequestError(score.error)
        worth = [score.mean_logprob if per_token else score.logprob for score in scores]
        index = worth.index(max(worth))
        return Choice(index, choices[index], scores)

    def perplexity(
        self,
        texts: Sequence[str],
        *,
        max_len: int | None = None,
        stride: int | None = None,
        progress: bool | None = None,
    ) -> Perplexity:
        """Compute the perplexity of texts.

        Args:
          texts: Any texts.
          max_len: Window size in tokens, >= 2. None: the engine's max_len.
          stride: Tokens between the starts of windows, in [1, max_len). In texts longer than a
            window each token has a context of at least max_len - stride - 1 tokens. None: half of
            max_len.
          progress: As in `generate`.

        Raises:
          InvalidRequestError: A value is out of range.
        """
        most = int(self.engine.model_info()["max_len"])
        max_len = most if max_len is None else max_len
        if not 2 <= max_len <= most:
            raise InvalidRequestError(f"max_len must be in [2, {most}]; got {max_len}")
        stride = max(1, max_len // 2) if stride is None else stride
        if not 1 <= stride < max_len:
            raise InvalidRequestError(f"stride must be in [1, {max_len}); got {stride}")
        pieces = [scoring.cut(self.engine, text, max_len, stride) for text in texts]
        return Perplexity([scoring.join(parts) for parts in self._score(pieces, progress)])

    def _run(
        self,
        jobs: Sequence[tuple[Prompt, SamplingParams | None]],
        progress: bool | None,
        *,
        space: int | None,
        scheduling: SchedulingOptions,
        chat: ChatOptions | None = None,
        stop: threading.Event | None = None,
    ) -> list[RequestOutput]:
        with (
            self._bar(len(jobs), progress) as bar,
            PromptBatch(self.engine, len(jobs), chat, space, scheduling, bar, stop) as run,
        ):
            return run.of(jobs)

    def _score(
        self,
        pieces: Sequence[Sequence[Piece | Score]],
        progress: bool | None,
        stop: threading.Event | None = None,
        cache_salt: str = "",
    ) -> list[list[Score]]:
        """Run the pieces. Elements that are scores already are returned unchanged."""
        jobs = [(p.tokens, p.params) for some in pieces for p in some if isinstance(p, Piece)]
        space = request_space(cache=True, cache_salt=cache_salt)
        results = iter(
            self._run(jobs, progress, space=space, scheduling=SchedulingOptions(), stop=stop)
        )
        return [
            [p if isinstance(p, Score) else scoring.score_of(next(results)) for p in some]
            for some in pieces
        ]

    def embed(
        self,
        texts: Text | Sequence[Text],
        *,
        normalize: bool = False,
        truncate: bool = False,
        pooling: str | None = None,
    ) -> Vectors:
        """Embed texts; shape (n_texts, n_embd), float32. See `Embedder.embed`."""
        return self.embedder.embed(texts, normalize=normalize, truncate=truncate, pooling=pooling)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool = False,
        pooling: str | None = None,
    ) -> list[RerankResult]:
        """Rank documents by relevance to a query. See `Embedder.rerank`."""
        return self.embedder.rerank(query, documents, truncate=truncate, pooling=pooling)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Generate for one prompt and yield each delta as it is generated.

        Leaving the loop early cancels the request.

        Raises:
          InvalidRequestError: An argument is invalid; the message states the rule and the value.
        """
        with self.engine.submit(prompt, params) as stream:
            yield from stream

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        chat: ChatOptions | None = None,
    ) -> RequestOutput:
        """Generate the next assistant message of one conversation.

        Args:
          messages: OpenAI's format, rendered with the model's chat template.
          params: Sampling parameters. None: the defaults.
          chat: Chat options. None: the defaults.

        Returns:
          The output; its reply is the parsed message: content, reasoning and tool calls.

        Raises:
          InvalidRequestError: An argument is invalid; the message states the rule and the value.
        """
        if not is_messages(messages):
            raise InvalidRequestError("messages must hold at least 1 message, each a mapping")
        with self.engine.submit(messages, params, chat=chat) as stream:
            return stream.result()

    def close(self) -> None:
        """Stop the engine and free the model. Idempotent."""
        if self._engine is not None:
            self._engine.close()
        with self._embedder_lock:
            self._embedder = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bar(self, total: int, progress: bool | None) -> AbstractContextManager[Bar]:
        wanted = self._progress if progress is None else progress
        if total == 0 or not shows_progress(wanted):
            return nullcontext(Bar())
        return RichBar(total)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """Convert a single prompt, including a list of ints or messages, to a list of one prompt."""
    if isinstance(prompts, (str, InfillPrompt)) or is_messages(prompts):
        return [prompts]
    n_dimensions = getattr(prompts, "ndim", None)  # of arrays
    if n_dimensions is None and not isinstance(prompts, Sequence):
        raise TypeError(f"prompts must be a prompt or a sequence of prompts; got {type(prompts)}")
    if n_dimensions == 1 or (len(prompts) > 0 and isinstance(prompts[0], Integral)):
        return [cast("Prompt", prompts)]
    return cast("Sequence[Prompt]", prompts)


def _per_prompt(
    params: SamplingParams | Sequence[SamplingParams] | None, n: int
) -> Sequence[SamplingParams | None]:
    if params is None or isinstance(params, SamplingParams):
        return [params] * n
    if len(params) != n:
        raise InvalidRequestError(f"there are {n} prompts but {len(params)} params")
    return params
