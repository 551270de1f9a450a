"""My-memory page: what users see and do of their own memory."""
