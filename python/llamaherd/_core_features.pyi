"""Instruction sets that this build needs, by their names in /proc/cpuinfo."""

REQUIRED: tuple[str, ...]
