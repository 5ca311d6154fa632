"""Pipelines, and what they share: progress, costs, checks, the summary."""
