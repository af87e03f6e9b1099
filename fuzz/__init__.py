"""Fuzz targets: every parser of foreign bytes, driven as its shell drives it."""
