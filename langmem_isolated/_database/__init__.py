"""Transactions, tables, dialects, group commit: the only home of database drivers."""
