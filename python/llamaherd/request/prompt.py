"""Types of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

if TYPE_CHECKING:  # importing numpy takes a third of this package's import time
    import numpy as np
    import numpy.typing as npt

    from llamaherd.request.infill import InfillPrompt

TokenIds: TypeAlias = "Sequence[int] | npt.NDArray[np.integer[Any]]"
Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = "str | TokenIds | Sequence[Message] | InfillPrompt"


def is_messages(prompt: object) -> TypeGuard[Sequence[Message]]:
    """Whether a prompt is a list of chat messages."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, (str, bytes))
        and len(prompt) > 0
        and isinstance(prompt[0], Mapping)
    )
