"""Rewriting of JSON schemas for llguidance."""
