"""A net that answers, and the tools that every method shares: training, folding, taps."""
