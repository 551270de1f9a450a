"""Keys, sealing and digests: the only home of `cryptography`."""
