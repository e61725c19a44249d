"""Feature extractors: each module holds a loader that the registry names."""
