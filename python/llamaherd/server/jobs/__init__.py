"""Work that requests ask for."""
