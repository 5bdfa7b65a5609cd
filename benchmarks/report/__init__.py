"""From the results of a run to tables, pictures and a page. matplotlib is imported here only."""
