"""Attacks on a server, by area."""

from attacks import (
    access,
    amounts,
    batches,
    connections,
    constraints,
    nesting,
    scheduling,
    texts,
)
from attacks.attack import Attack

ATTACKS: list[Attack] = [
    *constraints.ATTACKS,
    *nesting.ATTACKS,
    *amounts.ATTACKS,
    *texts.ATTACKS,
    *connections.ATTACKS,
    *access.ATTACKS,
    *batches.ATTACKS,
    *scheduling.ATTACKS,
]
