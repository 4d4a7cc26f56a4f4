"""Networks that chapters share: small, plain, each forward with its shapes."""

from .vae import MLPVAE

__all__ = ["MLPVAE"]
