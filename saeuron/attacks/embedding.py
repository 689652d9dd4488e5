"""A new word for the concept: one embedding, learned from pictures through the edit (concept inversion, 2308.01508).

The concept's name is replaced in every sentence by a word that stands for the learned embedding v. Adam minimises the
denoising loss of pictures of the concept over v, a few of them at one timestep each update.
"""

from collections.abc import Iterator

import torch

from saeuron.attacks.attack import Attack, Attempt, Effort, Target, attempts, tokenizer_of, without
from saeuron.attacks.soft import Noised, allowed, check_length, replaced, table_of
from saeuron.errors import ConfigError
from saeuron.noise import generator

RATE = 5e-3
"""Adam's learning rate."""
BATCH = 8
"""Pictures of one update."""
PICTURES = 4
"""Times that pictures are drawn, evenly spaced over the updates."""


class Embedding(Attack):
    """The concept's name is used nowhere, whatever `hide` says."""

    name = "embedding"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        noised, tokenizer = Noised(target, target.model.steps), tokenizer_of(target.pipe)
        everywhere = " ".join(p.text.lower() for p in target.prompts)
        free = [
            t for t in allowed(tokenizer, target.concept).tolist() if tokenizer.decode([t]).strip() not in everywhere
        ]
        if not free:
            raise ConfigError("every word of the tokenizer is in the prompts; the attack needs one of its own.")
        stand_in, token = tokenizer.decode([free[0]]).strip(), torch.tensor(free[0])
        texts = [_told(p.text, target.concept, stand_in) for p in target.prompts]
        check_length(tokenizer, texts)
        vector = table_of(target.pipe, torch.tensor(free)).mean(0).requires_grad_()
        optimiser = torch.optim.Adam([vector], RATE)
        every = max(effort.learned // PICTURES, 1)
        for number in range(effort.learned):
            if not target.todo:
                return
            draws = generator(target.seed, "embedding", number)
            order = torch.randperm(len(texts), generator=draws, device="cpu")[:BATCH].tolist()
            timestep = noised.timesteps[int(torch.randint(len(noised.timesteps), (1,), generator=draws, device="cpu"))]
            with torch.enable_grad(), replaced(target.pipe, token, vector):
                loss = noised.loss(order, [texts[i] for i in order], timestep, number).mean()
            optimiser.zero_grad()
            vector.grad = torch.autograd.grad(loss, [vector])[0]
            optimiser.step()
            if (number + 1) % every == 0 and (todo := target.todo):
                told = [texts[i] for i in todo]
                with replaced(target.pipe, token, vector.detach()):
                    pictures = target.draw(told, target.noise(todo))
                yield attempts(todo, told, pictures, number + 1)


def _told(text: str, concept: str, stand_in: str) -> str:
    """The sentence with another word in place of the concept's name, or before it where it has none."""
    import re

    changed, count = re.subn(rf"\b{re.escape(concept)}\b", stand_in, text, flags=re.IGNORECASE)
    return changed if count else f"{stand_in} {without(text, concept)}"
