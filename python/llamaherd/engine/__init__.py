"""The engine's Python side."""
