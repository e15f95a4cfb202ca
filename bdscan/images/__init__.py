"""Labelled images: the set itself, and its readers."""
