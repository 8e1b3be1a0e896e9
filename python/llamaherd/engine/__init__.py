"""Async engine: requests, streams, model loading and prefix cache control."""
