"""Methods that look with an SAE, and act where the concept's latents fire.

sensor.py         which latents tell a concept, and where they fire within a step
probe.py          whether an image shows a concept: a few latents, weighed, at the first step
decision.py       at the first step, whether an image is edited, by what probes see
thresholds.py     how high a concept's latents reach in images without it
sauce.py          SAUCE (2503.14530): latents found with a few images, edited in images that show the concept
sae_guidance.py   take the prompt's guidance back where the latents fire
gated_uce.py      UCE's keys and values in images whose probe opens, the model's own elsewhere
"""
