"""Trainers make a net from data that nobody vouches for. One file a trainer."""
