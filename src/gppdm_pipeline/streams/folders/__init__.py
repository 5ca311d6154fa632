"""Folders of images as they are found: what is in them, and which of them are splits or classes."""
