"""Methods that detect a concept with an SAE, and act where its latents fire.

sensor.py         latents that detect a concept, and where they fire within a step
probe.py          a weighted sum of a few latents at the first step: does an image show a concept?
decision.py       decide at the first step, by probes, whether an image is edited
thresholds.py     thresholds from how strongly a concept's latents fire in images without it
sauce.py          SAUCE (2503.14530): latents found with a few images, edited in images that show the concept
sae_guidance.py   undo the prompt's guidance where the latents fire
gated_uce.py      UCE's keys and values in images whose probe opens, the model's own in others
prompt_probe.py   a gate by the prompt's text states
prompt_uce.py     UCE where the prompt asks for the concept, or where it or an SAE's probe says so
"""
