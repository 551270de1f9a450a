"""Anonymous sessions: begun, recovered, claimed at the login, removed."""
