"""Helper library of the textbook "Generating Images: GANs, VAEs and RNNs, derived and run"."""

__version__ = "0.1.0"
