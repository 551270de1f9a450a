"""Export of all that a user has, in a form that needs nothing of ours to be read."""
