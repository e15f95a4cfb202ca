"""Trainings on poisoned data, with and without defence, measured."""
