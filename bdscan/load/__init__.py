"""From a file that nobody trusts to a net that answers. Nothing in the file ever runs."""
