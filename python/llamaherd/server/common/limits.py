"""The limits of a server and the error response of each."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from llamaherd._core import InvalidRequestError
from llamaherd.config.params import EngineConfig
from llamaherd.server.common.errors import ApiError

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Exceeded:
    """Response to a request that exceeds a limit; `status` 0: the connection is closed."""

    status: int
    code: str | None = None

    def __str__(self) -> str:
        if not self.status:
            return "the connection is closed"
        return f"{self.status} `{self.code}`" if self.code else str(self.status)


def _limit(
    default: _Number, unit: str, meaning: str, status: int, code: str | None = None
) -> _Number:
    """A field of Limits."""
    metadata = {"unit": unit, "meaning": meaning, "exceeded": Exceeded(status, code)}
    made: _Number = dataclasses.field(default=default, metadata=metadata)
    return made


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server. Each is a number > 0; those declared as int are whole numbers.

    docs/limits.md lists them; `Limits.table()` is its source.

    Raises:
      InvalidRequestError: A value is out of range.
    """

    # Connections
    max_connections: int = _limit(
        1024, "connections", "Open connections; reduced if RLIMIT_NOFILE allows fewer.",
        503, "too_many_connections",
    )  # fmt: skip
    reserved_connections: int = _limit(
        16, "connections",
        "Connections in addition to max_connections, for /health, /ready and errors only.", 0,
    )  # fmt: skip
    header_timeout_s: float = _limit(
        30, "s", "From the connection or the first byte of a request to the end of its headers.",
        408, "request_timeout",
    )  # fmt: skip
    body_timeout_s: float = _limit(
        30, "s", "Between two pieces of a request's body.", 408, "request_timeout"
    )
    keep_alive_timeout_s: float = _limit(30, "s", "Between two requests of a connection.", 0)
    write_timeout_s: float = _limit(
        60, "s", "Without progress while a response is written; the request is cancelled.", 0
    )
    # Requests
    max_header_kib: float = _limit(64, "KiB", "Request line and headers together.", 431)
    max_body_mib: float = _limit(4, "MiB", "Body of a request, and a line of a batch.", 413)
    max_bodies_mib: float = _limit(
        256, "MiB",
        "Bodies of all running requests together, except files and bodies of at most 64 KiB.",
        503, "too_many_bodies",
    )  # fmt: skip
    max_json_depth: int = _limit(
        128, "levels", "Nesting of arrays and objects in a body.", 400, "json_too_deep"
    )
    max_json_values: int = _limit(
        1 << 18, "JSON values", "Objects, arrays and scalars of a body.", 400, "json_too_large"
    )
    max_json_keys: int = _limit(
        4096, "keys", "Keys of one object of a body.", 400, "json_too_large"
    )
    max_messages: int = _limit(1024, "items", "Messages of a chat request.", 400)
    max_message_parts: int = _limit(
        4096, "items", "Parts of content and tool calls of all messages.", 400
    )
    max_tools: int = _limit(128, "tools", "Tools of a request.", 400, "too_many_tools")
    max_schema_nodes: int = _limit(
        10_000, "JSON values",
        "Objects, arrays and scalars of a request's JSON schemas, including those of tools.",
        400, "schema_too_large",
    )  # fmt: skip
    max_grammar_kib: float = _limit(
        64, "KiB", "grammar, lark, regex and choice together.", 400, "grammar_too_large"
    )
    max_prompts: int = _limit(
        1024, "prompts", "Prompts of a completion request.", 400, "too_many_prompts"
    )
    max_outputs: int = _limit(
        1024, "outputs", "Outputs of a request: its prompts times n or best_of.",
        400, "too_many_outputs",
    )  # fmt: skip
    max_logit_bias: int = _limit(
        1024, "tokens", "Tokens of logit_bias, and of stop_token_ids.", 400, "too_many_tokens"
    )
    max_texts: int = _limit(
        2048, "texts", "Texts of an embedding, rerank or score request.", 400, "too_many_texts"
    )
    max_score_mib: float = _limit(
        64, "MiB", "Prompt of a score request times its number of continuations.",
        400, "too_many_texts",
    )  # fmt: skip
    # Queue
    max_queued: int = _limit(
        2048, "outputs",
        "Outputs in a model's queue; overridden by EngineConfig.max_queued.",
        429, "queue_full",
    )  # fmt: skip
    max_queued_tokens: int = _limit(
        1 << 20, "tokens",
        "Prompt tokens in a model's queue; overridden by EngineConfig.max_queued_tokens.",
        429, "queue_full",
    )  # fmt: skip
    # Files and batches
    max_file_mib: float = _limit(512, "MiB", "A file of a batch job.", 413)
    max_files: int = _limit(
        1000, "files", "Files of a tenant, including output files of batches.",
        403, "file_quota_exceeded",
    )  # fmt: skip
    max_files_mib: float = _limit(
        4096, "MiB", "Files of a tenant together.", 403, "file_quota_exceeded"
    )
    file_expiry_h: float = _limit(
        720, "h", "Age at which a file unused by batches is removed.", 404, "file_not_found"
    )
    max_batch_lines: int = _limit(
        50_000, "lines", "Lines of a file, including blank ones.", 400, "too_many_lines"
    )
    max_batches: int = _limit(
        100, "batches", "Unfinished batches of a tenant.", 429, "too_many_batches"
    )
    max_batch_records: int = _limit(
        10_000, "batches", "Batches kept of a tenant; the oldest finished ones are removed.",
        404, "batch_not_found",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            kinds: tuple[type, ...] = (int,) if whole else (int, float)
            good = isinstance(value, kinds) and not isinstance(value, bool)
            if not good or not 0 < value < 1 << 53:
                kind = "a whole number" if whole else "a number"
                rule = f"{kind} of {field.metadata['unit']}, > 0 and < 2**53"
                raise InvalidRequestError(f"{field.name} must be {rule}; got {value!r}")

    @classmethod
    def parse(cls, settings: Iterable[str]) -> Limits:
        """Limits from NAME=VALUE pairs; the others have their defaults.

        Raises:
          InvalidRequestError: A name is unknown or given twice, or a value is out of range.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = (part.strip() for part in setting.partition("="))
            if not equals:
                raise InvalidRequestError(f"a limit must be NAME=VALUE; got {setting!r}")
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, cutoff=0)
                raise InvalidRequestError(
                    f"unknown limit {name!r}; did you mean {near[0]}? (list: docs/limits.md)"
                )
            if name in values:
                raise InvalidRequestError(f"limit {name} is given twice")
            values[name] = _number(text)
        return cls(**values)

    def most(self, name: str) -> int:
        """A limit as a whole number in its base unit: bytes for KiB and MiB."""
        unit = _field(name).metadata["unit"]
        return int(getattr(self, name) * _UNITS.get(unit, 1))

    def require(self, name: str, got: int, *, what: str, param: str | None = None) -> None:
        """Raises the limit's ApiError if `got` exceeds it.

        Args:
          name: Name of the limit.
          got: Actual value, in the limit's base unit.
          what: Subject of the message, as "messages must hold".
          param: Field of the request.
        """
        if got > self.most(name):
            raise self.error(name, got, what=what, param=param)

    def error(self, name: str, got: int, *, what: str, param: str | None = None) -> ApiError:
        """The ApiError of a request that exceeds a limit; arguments as for `require`."""
        unit: str = _field(name).metadata["unit"]
        unit = "bytes" if unit in _UNITS else unit
        exceeded: Exceeded = _field(name).metadata["exceeded"]
        message = f"{what} at most {self.most(name)} {unit}; got {got} (limit {name})"
        retry_after_s = 1 if exceeded.status == 503 else None
        return ApiError(
            exceeded.status, message, code=exceeded.code, param=param, retry_after_s=retry_after_s
        )

    def bound_queue(self, config: EngineConfig) -> EngineConfig:
        """An engine's configuration with limits for its queue; limits already set are kept."""
        return dataclasses.replace(
            config,
            max_queued=config.max_queued or self.max_queued,
            max_queued_tokens=config.max_queued_tokens or self.max_queued_tokens,
        )

    @classmethod
    def table(cls) -> str:
        """The limits as a Markdown table."""
        lines = ["| limit | default | applies to | response when exceeded |", "|---|---|---|---|"]
        for field in dataclasses.fields(cls):
            unit, meaning, exceeded = (
                field.metadata[key] for key in ("unit", "meaning", "exceeded")
            )
            lines.append(f"| `{field.name}` | {field.default:,} {unit} | {meaning} | {exceeded} |")
        return "\n".join(lines) + "\n"


def _field(name: str) -> dataclasses.Field[Any]:
    return Limits.__dataclass_fields__[name]


def _number(text: str) -> int | float | str:
    """The text as a number, or unchanged if it is not one."""
    try:
        return float(text) if set(text) & set(".einfa") else int(text)
    except ValueError:
        return text
