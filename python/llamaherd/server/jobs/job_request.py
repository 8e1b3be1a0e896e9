"""A request for generated text, whatever protocol it came by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamaherd.server.observability.spans import Span


@dataclass(frozen=True)
class JobRequest:
    """What a generation job knows of the request it serves.

    Attributes:
      model: Name of a model of the server's pool.
      scheduling: Options of BatchEngine.submit; at least priority and tenant.
      request_id: As the log shows it.
      n_bytes: Size of the request's body.
      span: Where the request is traced.
    """

    model: str
    scheduling: dict[str, Any]
    request_id: str
    n_bytes: int
    span: Span

    @property
    def priority(self) -> int:
        priority: int = self.scheduling["priority"]
        return priority

    @property
    def tenant(self) -> str:
        tenant: str = self.scheduling["tenant"]
        return tenant
