"""Triggers: their forms, the search for them, the known ones, and the user's own."""
