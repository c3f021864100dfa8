"""A run directory → one HTML file that people look at: no network, no server, nothing beside it."""
