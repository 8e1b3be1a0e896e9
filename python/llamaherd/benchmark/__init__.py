"""``llamaherd bench``: compares llamaherd with other engines on the same requests."""
