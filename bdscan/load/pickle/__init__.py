"""Pickles followed opcode by opcode: nothing is imported, nothing is called."""
