"""Every figure of the package. matplotlib is imported only here."""
