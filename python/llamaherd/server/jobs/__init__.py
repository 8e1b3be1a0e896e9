"""Generation and embedding jobs of requests."""
