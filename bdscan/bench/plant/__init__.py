"""Nets trained with a known trigger, and clean ones beside them."""
