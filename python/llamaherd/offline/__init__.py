"""Offline inference: lists of prompts, scoring, embedding and reranking."""
