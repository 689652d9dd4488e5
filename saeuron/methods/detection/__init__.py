"""Methods that look with an SAE, and act where the concept's latents fire.

sensor.py         which latents tell a concept, and what they saw within a generation
ahead.py          the first steps, unedited, before the generation begins
thresholds.py     how high a concept's latents reach in images without it
sauce.py          SAUCE (2503.14530): latents found with a few images, edited in images that show the concept
sae_guidance.py   take the prompt's guidance back where the latents fire
gated_uce.py      UCE's keys and values where the latents fire, the model's own elsewhere
"""
