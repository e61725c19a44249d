"""Data sets: each module holds one `Dataset` value, reached by name through the registry."""
