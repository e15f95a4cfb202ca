"""Models whose truth is known, and what bdscan makes of them."""
