"""What every floor may use: the clock, a bounded cache of plaintext, renewal after a fork."""
