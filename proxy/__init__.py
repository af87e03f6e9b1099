"""The edge: what clients reach in place of a host."""
