"""Trainings by name. A recipe is a frozen dataclass; `genimg train NAME` runs it, any field can be set on the command line."""

from __future__ import annotations

from difflib import get_close_matches

from .autoregressive import PixelCNNGlyphs, VQPriorGlyphs
from .base import Recipe
from .classifiers import GlyphClassifierRecipe
from .conditional import ConditionalGlyphs
from .fashion import ConditionalFashion, FashionClassifier
from .gan import DCGANGlyphs
from .scaling import BigGANColour, ProgressiveColour
from .vae import ImportanceWeights, IWAEMnist, VAEGlyphs
from .vq import VQVAEGlyphs

__all__ = [
    "RECIPES",
    "BigGANColour",
    "ConditionalFashion",
    "ConditionalGlyphs",
    "DCGANGlyphs",
    "FashionClassifier",
    "GlyphClassifierRecipe",
    "IWAEMnist",
    "ImportanceWeights",
    "PixelCNNGlyphs",
    "ProgressiveColour",
    "Recipe",
    "VAEGlyphs",
    "VQPriorGlyphs",
    "VQVAEGlyphs",
    "find",
]

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (
        VAEGlyphs,
        GlyphClassifierRecipe,
        IWAEMnist,
        VQVAEGlyphs,
        DCGANGlyphs,
        PixelCNNGlyphs,
        VQPriorGlyphs,
        ConditionalGlyphs,
        FashionClassifier,
        ConditionalFashion,
        BigGANColour,
        ProgressiveColour,
    )
}


def find(name: str) -> type[Recipe]:
    """The recipe of this name. Raises ValueError, with the nearest name, if there is none."""
    if name not in RECIPES:
        near = get_close_matches(name.lower(), RECIPES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no recipe is called {name!r}: {hint}expected one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
