"""One file per family of file formats; `streams/sources.py` lists them."""
