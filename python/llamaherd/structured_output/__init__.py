"""Structured outputs: constrained decoding."""
