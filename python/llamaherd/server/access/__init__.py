"""Connections, keys and limits."""
