"""From what the probes measured to one verdict: pure functions, no torch."""
