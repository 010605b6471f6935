"""Checkpoints and what goes on from them."""
