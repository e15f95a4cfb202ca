"""Purifiers take a suspect and give back a new net that works and no longer obeys. One file a purifier."""
