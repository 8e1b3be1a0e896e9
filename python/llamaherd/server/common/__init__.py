"""Parts shared by the whole server."""
