"""Look into a model: where a concept passes, and which concepts are alike.

heads.py      attention heads: what each carries of a concept, by patching
codes.py      discrete codes of heads, from a few prompts (2405.12522)
words.py      where the activation of a latent comes from: words and heads (2406.17759)
ranks.py      rank correlation and AUC of two rankings, with an interval
relatives.py  how alike concepts are, from what latents do on them: nearest ones, a tree
steer.py      one latent turned up or down: whether the picture follows, and what else changes
"""
