"""A GameStream host with a test card, so that everything runs without a GPU; a client for load."""
