"""What methods do with prompts: edits of a text encoder's states, which no denoising step repeats.

states.py         what prompts become: rows of a text encoder, and the same sentence with another word
    sae.py            an SAE of a text encoder, and a concept's latents in it
    itd.py            Interpret-then-Deactivate (2503.09446): turn them down where a prompt asks for the concept
    text_latents.py   the same in every prompt
    text_direction.py  subtract the concept's direction, without an SAE
    semantic_gate.py   project the concept's direction out of prompts that ask for it, without an SAE
"""
