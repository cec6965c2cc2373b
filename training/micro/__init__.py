"""The recipes that made the bundled micro models."""
