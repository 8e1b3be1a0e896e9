"""A generation request, independent of its protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamaherd.server.observability.spans import Span


@dataclass(frozen=True)
class JobRequest:
    """Properties of a request that a generation job needs.

    Attributes:
      model: Name of a model of the server's pool.
      scheduling: Options of BatchEngine.submit, including priority and tenant.
      request_id: Id in the log.
      n_bytes: Size of the request's body.
      span: Trace span of the request.
      prompt_field: Field of the body that holds the prompt.
    """

    model: str
    scheduling: dict[str, Any]
    request_id: str
    n_bytes: int
    span: Span
    prompt_field: str | None = None

    @property
    def priority(self) -> int:
        priority: int = self.scheduling["priority"]
        return priority

    @property
    def tenant(self) -> str:
        tenant: str = self.scheduling["tenant"]
        return tenant
