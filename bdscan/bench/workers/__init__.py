"""One process a job, here or on a Ray cluster."""
