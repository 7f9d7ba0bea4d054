"""Ano-Unet: where an image is abnormal, and what it would look like if it were normal."""

__version__ = "0.1.0"
