"""The classifier, and what holds it near the one before. Knows no generator."""
