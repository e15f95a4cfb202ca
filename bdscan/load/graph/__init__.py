"""Graphs as torch nets, whatever file they came in: steps on named values, every layer a child to be hooked."""
