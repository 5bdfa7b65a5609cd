"""Every figure of the package. matplotlib is imported here only."""
