"""Methods that edit a text encoder's states. They act once per prompt, not at every denoising step.

states.py          states of a text encoder, and the same sentence with another concept
sae.py             an SAE of a text encoder, and a concept's latents in it
itd.py             Interpret-then-Deactivate (2503.09446): turn these down in prompts that ask for the concept
text_latents.py    turn them down in every prompt
text_direction.py  subtract the concept's direction, without an SAE
semantic_gate.py   project the concept's direction out of prompts that ask for it, without an SAE
"""
