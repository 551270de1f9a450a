"""Import of an export: every record as it was, in this database or another."""
