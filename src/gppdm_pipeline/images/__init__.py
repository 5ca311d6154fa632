"""Labelled images in memory and in files. Knows nothing else of the package."""
