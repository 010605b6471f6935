"""The commands of ``python -m jboat``."""
