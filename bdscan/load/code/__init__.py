"""Python text read as data: statements worked out over values that a vocabulary vouches for; nothing is compiled."""
