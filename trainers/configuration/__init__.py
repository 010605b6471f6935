"""A trainer described by files."""
