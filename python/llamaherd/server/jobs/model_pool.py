"""The models of a server, loaded on demand and unloaded when idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamaherd._core import GgufSummary, InvalidRequestError, LlamaHerdError
from llamaherd.bounded_pool import BoundedPool
from llamaherd.config.params import EngineConfig
from llamaherd.models import resolve
from llamaherd.offline.embedder import POOLINGS
from llamaherd.offline.llm import LLM
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.model_card import ModelCard, read_headers
from llamaherd.validation import require_unicode

_logger = logging.getLogger("llamaherd.server")
_MIB = 1 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # after a failure
_RESET_S = 600.0  # without a failure, after which the pause is reset
_LOOK_S = 0.5
_HEADERS_S = 10.0  # between two searches for the file of a model that is not loaded
_NOT_LOADED, _STOPPED = "it cannot be loaded", "its engine has stopped"
_STUCK_S = 600.0


@dataclass(frozen=True)
class ModelSpec:
    """A model that the server offers.

    Attributes:
      name: Name in requests.
      source: Path of a GGUF file, a name of the catalogue, or hf:org/repo/file.gguf.
      config: Configuration of its engine.
      pooling: Pooling type of embeddings: mean, cls, last or rank. None: the model file's.

    Raises:
      InvalidRequestError: The pooling is unknown.
    """

    name: str
    source: str
    config: EngineConfig = field(default_factory=EngineConfig)
    pooling: str | None = None

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise InvalidRequestError(
                f"pooling must be one of {', '.join(POOLINGS)}; got {self.pooling!r}"
            )


class _Backoff:
    """Exponential backoff after failures."""

    def __init__(self) -> None:
        self._n_failed = 0
        self._failed_at = 0.0

    def failed(self) -> None:
        now = time.monotonic()
        if now - self._failed_at > _RESET_S:
            self._n_failed = 0
        self._n_failed += 1
        self._failed_at = now

    @property
    def left_s(self) -> float:
        """Seconds until the next try."""
        if self._n_failed == 0:
            return 0.0
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** (self._n_failed - 1), _LONGEST_PAUSE_S)
        return max(0.0, self._failed_at + pause_s - time.monotonic())


class _Slot:
    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.lock = asyncio.Lock()  # held while the model is loaded or unloaded
        self.llm: LLM | None = None
        self.n_users = 0
        self.used_at = 0.0
        self.mib = 0.0
        self.path: Path | None = None  # since the first load
        self.max_len: int | None = None  # since the first load
        self.headers: list[GgufSummary] = []
        self.headers_at = 0.0  # when they may be looked for again
        self.backoff = _Backoff()
        self.trouble = ""  # why the model is unavailable; "": it is not

    @property
    def is_dead(self) -> bool:
        return self.llm is not None and self.llm.generates and bool(self.llm.engine.fatal_error)


def trouble_of(llm: LLM) -> str:
    """Why a model's engine is unavailable; "": it is available. The cause of a fatal error is
    omitted: it may contain file names."""
    if not llm.generates:
        return ""
    return _STOPPED if llm.engine.fatal_error else llm.engine.health().reason


class ModelPool:
    """The models of a server, each loaded on first use.

    Args:
      specs: At least one model; the first is the default model.
      unload_after_s: Unload models after this many idle seconds. None: never.
      max_mib: Maximum total file size of loaded models, in MiB; least recently used models are
        unloaded. None: unlimited.
      restart: Reload a model whose engine has stopped after a fatal error, with pauses of 1, 2, 4
        and
        so on up to 60 seconds.

    Failed loads are retried after the same pauses.

    Raises:
      InvalidRequestError: No model is given, or a name is given twice or is not valid Unicode.

    Thread safety:
      One event loop.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        unload_after_s: float | None = None,
        max_mib: float | None = None,
        restart: bool = False,
    ) -> None:
        names = [spec.name for spec in specs]
        if not names or len(set(names)) < len(names):
            raise InvalidRequestError(
                f"models must be at least one, with unique names; got {names}"
            )
        for name in names:
            require_unicode("the name of a model", name)
        self._slots = {spec.name: _Slot(spec) for spec in specs}
        self._unload_after_s = unload_after_s
        self._max_mib = max_mib
        self._restart = restart
        self._threads = BoundedPool("models", 2, 64, stuck_after_s=_STUCK_S)
        self._loading = asyncio.Lock()  # one load at a time: its size is known afterwards
        self.created = int(time.time())

    @property
    def names(self) -> list[str]:
        return list(self._slots)

    @property
    def specs(self) -> list[ModelSpec]:
        return [slot.spec for slot in self._slots.values()]

    @property
    def loaded(self) -> dict[str, LLM]:
        """Loaded models by name."""
        return {name: slot.llm for name, slot in self._slots.items() if slot.llm is not None}

    async def card(self, name: str) -> ModelCard:
        """Properties of a model, which need not be loaded."""
        slot = self._slots[name]
        spec, path = slot.spec, slot.path
        if not slot.headers and time.monotonic() >= slot.headers_at:
            slot.headers_at = time.monotonic() + _HEADERS_S
            slot.headers = await self._threads.run(lambda: read_headers(spec.source, path))
        return ModelCard.of(slot.headers, spec.pooling, slot.llm, slot.max_len)

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[LLM]:
        """A model, which stays loaded within the `with`.

        Raises:
          ApiError: The model does not exist (404); it cannot be loaded, its engine has stopped, or
            it
            does not fit beside the models in use (503).
        """
        slot = self._slots.get(name)
        if slot is None:
            raise ApiError(
                404,
                f"model {name!r} does not exist; available models: {', '.join(self._slots)}",
                code="model_not_found",
                param="model",
            )
        slot.n_users += 1
        try:
            async with slot.lock:
                llm = await self._ready(slot)
            yield llm
        finally:
            slot.n_users -= 1
            slot.used_at = time.monotonic()

    async def preload(self, name: str) -> None:
        """Load a model.

        Raises:
          ModelLoadError, InvalidRequestError: The model cannot be loaded; the message has the
            cause.
        """
        slot = self._slots[name]
        async with slot.lock, self._loading:
            await self._load(slot)
        slot.used_at = time.monotonic()

    @property
    def troubles(self) -> dict[str, str]:
        """Unavailable models: name -> reason."""
        return {
            name: slot.trouble
            for name, slot in self._slots.items()
            if slot.trouble == _STOPPED or (slot.trouble and slot.backoff.left_s > 0)
        }

    async def _ready(self, slot: _Slot) -> LLM:
        """The model of a locked slot. Raises ApiError as in `use`."""
        if slot.is_dead:
            await self._discard_engine(slot)
        if slot.llm is not None:
            return slot.llm
        name = slot.spec.name
        if slot.backoff.left_s > 0:
            raise _unavailable_error(slot)
        try:
            async with self._loading:
                await self._load(slot)
        except ApiError:
            raise
        except Exception as error:
            slot.backoff.failed()
            if slot.trouble != _STOPPED:
                slot.trouble = _NOT_LOADED
            unexpected = None if isinstance(error, LlamaHerdError | OSError) else error
            _logger.error("cannot load %s: %s", name, error, exc_info=unexpected)
            raise _unavailable_error(slot) from None
        assert slot.llm is not None
        return slot.llm

    async def _discard_engine(self, slot: _Slot) -> None:
        """Discard a stopped engine if it may be restarted now; otherwise raise ApiError."""
        assert slot.llm is not None
        if not slot.trouble:
            slot.trouble = _STOPPED
            cause = slot.llm.engine.fatal_error
            _logger.error("the engine of %s has stopped: %s", slot.spec.name, cause)
            slot.backoff.failed()
        if not self._restart:
            raise _unavailable_error(slot)
        llm, slot.llm = slot.llm, None
        await self._threads.run(llm.close)

    async def _load(self, slot: _Slot) -> None:
        path: Path = await self._threads.run(lambda: resolve(slot.spec.source, progress=False))
        slot.mib, slot.path = path.stat().st_size / _MIB, path
        slot.headers, slot.headers_at = [], 0.0  # the file may have changed
        await self._make_room(slot)
        begin = time.monotonic()
        spec = slot.spec

        def load() -> tuple[LLM, int]:
            llm = LLM(path, spec.config, pooling=spec.pooling, progress=False)
            return llm, llm.max_len

        slot.llm, slot.max_len = await self._threads.run(load)
        slot.trouble = ""
        _logger.info("loaded %s in %.1f s", slot.spec.name, time.monotonic() - begin)

    async def _make_room(self, wanted: _Slot) -> None:
        if self._max_mib is None:
            return
        while True:
            loaded = [slot for slot in self._slots.values() if slot.llm is not None]
            if sum(slot.mib for slot in loaded) + wanted.mib <= self._max_mib:
                return
            idle = [slot for slot in loaded if slot.n_users == 0]
            if not idle:
                raise ApiError(
                    503,
                    f"{wanted.spec.name} does not fit beside the models in use",
                    code="no_room",
                    retry_after_s=5,
                )
            await self._unload(min(idle, key=lambda slot: slot.used_at))

    async def _unload(self, slot: _Slot) -> None:
        async with slot.lock:
            if slot.llm is None or slot.n_users > 0:
                return
            llm, slot.llm = slot.llm, None
            await self._threads.run(llm.close)
            _logger.info("unloaded %s", slot.spec.name)

    async def unload_idle(self) -> None:
        """Unload idle models; runs until cancelled."""
        if self._unload_after_s is None:
            return
        while True:
            await asyncio.sleep(min(1.0, self._unload_after_s))
            for slot in self._slots.values():
                idle_s = time.monotonic() - slot.used_at
                if slot.llm is not None and slot.n_users == 0 and idle_s > self._unload_after_s:
                    await self._unload(slot)

    async def restart_dead(self) -> None:
        """Reload models whose engines have stopped; runs until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for slot in self._slots.values():
                if slot.is_dead or (slot.trouble == _STOPPED and self._restart):
                    await self._restart_one(slot)

    async def _restart_one(self, slot: _Slot) -> None:
        try:
            async with slot.lock:
                await self._ready(slot)
        except ApiError:
            pass  # not yet
        except Exception:
            _logger.exception("cannot restart %s", slot.spec.name)

    async def close(self) -> None:
        """Unload all models; running requests end as CANCELLED."""
        for slot in self._slots.values():
            async with slot.lock:
                llm, slot.llm = slot.llm, None
                if llm is not None:
                    await self._threads.run(llm.close)


def _unavailable_error(slot: _Slot) -> ApiError:
    """The client's error; the cause is in the log only, as it may contain file names."""
    return ApiError(
        503,
        f"model {slot.spec.name!r} is unavailable: {slot.trouble}; see the server's log",
        code="engine_dead" if slot.trouble == _STOPPED else "model_load_failed",
        retry_after_s=max(1.0, slot.backoff.left_s),
    )
