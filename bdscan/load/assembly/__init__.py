"""Tensors, architecture, normalisation and class names put together into one net."""
