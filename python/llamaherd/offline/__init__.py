"""Lists of prompts, scoring and embedding."""
