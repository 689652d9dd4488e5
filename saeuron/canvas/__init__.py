"""The model that ships with the project: renderer, prompts, classifier, diffusion model."""
