"""Writes a cleaned model in the form it came in: whole or not at all, the original untouched."""
