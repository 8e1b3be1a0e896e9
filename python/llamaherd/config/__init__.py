"""Options of engines and requests."""
