"""Fonts for names in any script, and text drawn with them."""
