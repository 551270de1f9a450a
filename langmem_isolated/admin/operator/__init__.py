"""Admin page: what operators see and do."""
