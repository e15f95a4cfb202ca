"""How often each probe is right about nets whose truth is known."""
