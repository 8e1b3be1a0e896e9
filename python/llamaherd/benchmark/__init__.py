"""``llamaherd bench``: the same requests to llamaherd and to others, in turns, and a report."""
