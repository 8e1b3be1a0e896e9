"""The compared engines and servers."""
