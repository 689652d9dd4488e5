"""The model that ships with the project: renderer, prompts, classifier, diffusion model."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the model, and of its judge; here, for to know of it must not load what builds it."""
