"""Latent-variable models."""

from avo_lib.models.vae import VAE, VAEConfig

__all__ = ["VAE", "VAEConfig"]
