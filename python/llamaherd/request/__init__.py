"""Prompts, chats and results."""
