"""A method is a file: how it is found and configured, and what each kind of method is given."""
