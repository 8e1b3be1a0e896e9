"""Grammars in llama.cpp's GBNF, and the same ones as llguidance's Lark."""
