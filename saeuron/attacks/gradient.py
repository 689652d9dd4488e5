"""Words before the sentence, found by gradients through the edit (UnlearnDiffAtk, 2310.11868).

For each prompt, `words` tokens are drawn from distributions w = projection of theta [words, V] onto the simplex.
Forward the drawn tokens are used, backward the gradient reaches theta as if they had been theta itself, where it is in
[-1, 1]. The loss is that of denoising a picture of the concept, at one timestep after another.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, one_hot

from saeuron.attacks.attack import Attack, Attempt, Effort, Target, attempts, tokenizer_of
from saeuron.attacks.soft import Noised, allowed, check_length, prefixed, replaced, table_of
from saeuron.noise import generator

RATE, DECAY = 0.01, 0.1
"""Adam's learning rate and weight decay, as published."""


class Gradient(Attack):
    """The strongest attack on texts that the field uses; one picture after the updates of each timestep."""

    name = "gradient"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        noised, tokenizer = Noised(target, effort.steps), tokenizer_of(target.pipe)
        words = allowed(tokenizer, target.concept if target.hide else None)
        filler = words[:1].expand(effort.words)
        texts = {i: target.text(i) for i in target.todo}
        check_length(tokenizer, [prefixed(tokenizer, filler, text) for text in texts.values()])
        embeddings = table_of(target.pipe, words)
        theta = {i: torch.zeros(effort.words, len(words), requires_grad=True) for i in target.todo}
        # One optimiser a prompt: a prompt that is broken leaves without changing the others.
        optimiser = {i: torch.optim.Adam([t], RATE, weight_decay=DECAY) for i, t in theta.items()}
        for count, timestep in enumerate(noised.timesteps):
            todo = target.todo
            if not todo:
                return
            told = [prefixed(tokenizer, filler, texts[i]) for i in todo]
            ids, where = _places(tokenizer, told, effort.words)
            for number in range(effort.iterations):
                drawn = [
                    _drawn(theta[i], generator(target.seed, "words", target.prompts[i].id, timestep, number))
                    for i in todo
                ]
                soft = torch.cat([chosen.to(embeddings) @ embeddings for chosen in drawn])
                with torch.enable_grad(), replaced(target.pipe, where, soft, ids):
                    loss = noised.loss(todo, told, timestep).sum()
                gradients = torch.autograd.grad(loss, [theta[i] for i in todo])
                for i, gradient in zip(todo, gradients, strict=True):
                    theta[i].grad = gradient
                    optimiser[i].step()
            best = [prefixed(tokenizer, words[projected(theta[i].detach()).argmax(1)], texts[i]) for i in todo]
            yield attempts(todo, best, target.draw(best, target.noise(todo)), (count + 1) * effort.iterations, timestep)


def projected(theta: Tensor) -> Tensor:
    """The nearest point of the simplex to each row, [n, V]: max(theta - tau, 0) with the tau that makes its sum 1.

    Found by bisection, as the sum falls with tau.
    """
    low, high = theta.amax(1, keepdim=True) - 1, theta.amax(1, keepdim=True)
    for _ in range(50):
        middle = (low + high) / 2
        more = (theta - middle).clamp(min=0).sum(1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    found = (theta - (low + high) / 2).clamp(min=0)
    return found / found.sum(1, keepdim=True)


def _drawn(theta: Tensor, draws: torch.Generator) -> Tensor:
    """One-hot rows drawn from the distributions of theta, [n, V]; the gradient is that of hardtanh(theta)."""
    chosen = torch.multinomial(projected(theta.detach()), 1, generator=draws).squeeze(1)
    hard, soft = one_hot(chosen, theta.shape[1]).float(), hardtanh(theta)
    return hard + soft - soft.detach()


def _places(tokenizer: object, texts: list[str], words: int) -> tuple[Tensor, Tensor]:
    """(token ids int64 [B, L], where the words of the attack stand bool [B, L]: after the token that starts a text)."""
    assert callable(tokenizer)
    ids: Tensor = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[:, 1 : words + 1] = True
    return ids, where
