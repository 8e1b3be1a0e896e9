"""Conversion of llama.cpp's GBNF grammars to llguidance's Lark."""
