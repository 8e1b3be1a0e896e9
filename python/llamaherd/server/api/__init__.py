"""Wire formats of the HTTP API."""
