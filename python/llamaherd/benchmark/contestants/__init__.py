"""Engines and servers that are compared."""
