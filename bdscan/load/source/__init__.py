"""From what was named on the command line to files: paths, folders, addresses, registries."""
