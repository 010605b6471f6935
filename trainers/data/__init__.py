"""Batches: loaders, their order, and what an outer step trains on."""
