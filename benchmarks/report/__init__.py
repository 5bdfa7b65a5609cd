"""Turns the results of a run into tables, figures and a page. matplotlib is imported only here."""
