"""Users' own locks: keys that a user holds, lends for a time, and takes back."""
