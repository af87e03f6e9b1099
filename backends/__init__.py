"""Which backend a session goes to, and where that state is kept."""
