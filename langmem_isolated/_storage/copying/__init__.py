"""Copies all that one owner has to another, whose keys seal it anew at the addresses they give it.

What stands below a session or a thread goes first, in transactions of at most 500 rows, below rows
that have expired before they began: whoever reads finds nothing of it, and what a killed process
leaves is swept as what has expired. The birth of such a row is derived from the source's and from
the token of the copy, so that the copy, begun again, finds its own and goes on. A last transaction
compares the source with what was copied of it, gives the rows the expiry they should have, and puts
in what has no row above it.
"""
