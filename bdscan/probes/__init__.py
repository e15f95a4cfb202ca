"""Probes look at a suspect and never touch it. One file a probe."""
