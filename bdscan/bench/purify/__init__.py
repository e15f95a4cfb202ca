"""Cures measured with the trigger at hand."""
