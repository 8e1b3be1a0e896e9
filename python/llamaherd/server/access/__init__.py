"""Connections, API keys and limits."""
