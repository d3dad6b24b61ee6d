"""Peers that the papers compare with."""
