"""The models of a server: loaded when they are asked for, unloaded when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamaherd._core import InvalidRequestError
from llamaherd.llm import LLM
from llamaherd.models import resolve
from llamaherd.params import EngineConfig
from llamaherd.server.errors import ApiError

_logger = logging.getLogger("llamaherd.server")
_MIB = 1 << 20


@dataclass(frozen=True)
class ModelSpec:
    """A model that may be asked for.

    Attributes:
      name: What clients call it.
      source: Path of a GGUF file, a name of the catalogue, or hf:org/repo/file.gguf.
      config: Its engine's set-up.
    """

    name: str
    source: str
    config: EngineConfig = field(default_factory=EngineConfig)


class _Slot:
    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.lock = asyncio.Lock()  # while it is loaded or unloaded
        self.llm: LLM | None = None
        self.n_users = 0
        self.used_at = 0.0
        self.mib = 0.0


class ModelPool:
    """The models of a server, each loaded at its first use.

    Args:
      specs: At least one; the first is the default of requests that name none.
      idle_ttl_s: Unload a model that nobody has used for so many seconds. None: never.
      max_mib: Size of the files of loaded models together, in MiB; those longest unused give way.
        None: no bound.

    Raises:
      InvalidRequestError: There is no model, or two have one name.

    Thread safety:
      One event loop.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        idle_ttl_s: float | None = None,
        max_mib: float | None = None,
    ) -> None:
        names = [spec.name for spec in specs]
        if not names or len(set(names)) < len(names):
            raise InvalidRequestError(
                f"models must be one or several of different names; got {names}"
            )
        self._slots = {spec.name: _Slot(spec) for spec in specs}
        self._idle_ttl_s = idle_ttl_s
        self._max_mib = max_mib
        self._loading = asyncio.Lock()  # one at a time: what fits is known when it is there
        self.created = int(time.time())

    @property
    def names(self) -> list[str]:
        return list(self._slots)

    @property
    def specs(self) -> list[ModelSpec]:
        return [slot.spec for slot in self._slots.values()]

    @property
    def loaded(self) -> dict[str, LLM]:
        """Models in memory."""
        return {name: slot.llm for name, slot in self._slots.items() if slot.llm is not None}

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[LLM]:
        """A model, which stays in memory meanwhile.

        Raises:
          ApiError: There is none of this name (404), or no room for it (503).
          ModelLoadError: It cannot be loaded.
        """
        slot = self._slots.get(name)
        if slot is None:
            raise ApiError(
                404,
                f"there is no model {name!r}; there are {', '.join(self._slots)}",
                code="model_not_found",
                param="model",
            )
        slot.n_users += 1
        try:
            async with slot.lock:
                if slot.llm is None:
                    async with self._loading:
                        await self._load(slot)
            assert slot.llm is not None
            yield slot.llm
        finally:
            slot.n_users -= 1
            slot.used_at = time.monotonic()

    async def _load(self, slot: _Slot) -> None:
        path: Path = await asyncio.to_thread(resolve, slot.spec.source, progress=False)
        slot.mib = path.stat().st_size / _MIB
        await self._make_room(slot)
        begin = time.monotonic()
        slot.llm = await asyncio.to_thread(LLM, path, slot.spec.config, progress=False)
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
            await asyncio.to_thread(llm.close)
            _logger.info("unloaded %s", slot.spec.name)

    async def unload_idle(self) -> None:
        """Unload what nobody has used for long; runs until it is cancelled."""
        if self._idle_ttl_s is None:
            return
        while True:
            await asyncio.sleep(min(1.0, self._idle_ttl_s))
            for slot in self._slots.values():
                idle_s = time.monotonic() - slot.used_at
                if slot.llm is not None and slot.n_users == 0 and idle_s > self._idle_ttl_s:
                    await self._unload(slot)

    async def close(self) -> None:
        """Free all models; what runs in them ends as CANCELLED."""
        for slot in self._slots.values():
            async with slot.lock:
                llm, slot.llm = slot.llm, None
                if llm is not None:
                    await asyncio.to_thread(llm.close)
