"""Bulk import: puts what foreign stores have into scopes, verified, and takes it out again."""
