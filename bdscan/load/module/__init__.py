"""Whole pickled modules built again: what their records say to the letter, the order where it stands nowhere."""
