"""Attacks by other sentences: none at all, paraphrases, random words."""

from collections.abc import Iterator

import torch

from saeuron.attacks.attack import Attack, Attempt, Effort, Target, attempts, tokenizer_of
from saeuron.attacks.soft import allowed, prefixed
from saeuron.noise import generator


class Plain(Attack):
    """The prompts as they are: what an evaluation measures, and where all other attacks begin.

    A prompt that brings a guidance scale of its own is drawn with it.
    """

    name = "none"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        del effort
        alike: dict[float | None, list[int]] = {}
        for i in target.todo:
            alike.setdefault(target.prompts[i].guidance, []).append(i)
        for guidance, todo in alike.items():
            texts = [target.text(i) for i in todo]
            yield attempts(todo, texts, target.draw(texts, target.noise(todo), guidance=guidance), 0)


class Paraphrase(Attack):
    """Other sentences that ask for the same, one after another."""

    name = "paraphrase"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        del effort
        most = max((len(found) for found in target.paraphrases.values()), default=0)
        for number in range(most):
            of = {i: target.paraphrases.get(target.prompts[i].text, ()) for i in target.todo}
            todo = [i for i, found in of.items() if number < len(found)]
            if todo:
                texts = [of[i][number] for i in todo]
                yield attempts(todo, texts, target.draw(texts, target.noise(todo)), number)


class RandomWords(Attack):
    """Random words before the sentence: the control of `gradient`, with as many pictures."""

    name = "random"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        tokenizer = tokenizer_of(target.pipe)
        words = allowed(tokenizer, target.concept if target.hide else None)
        for number in range(effort.steps):
            todo, texts = target.todo, []
            for i in todo:
                draws = generator(target.seed, "random words", target.prompts[i].id, number)
                chosen = torch.randint(len(words), (effort.words,), generator=draws, device="cpu")
                texts.append(prefixed(tokenizer, words[chosen], target.text(i)))
            if todo:
                yield attempts(todo, texts, target.draw(texts, target.noise(todo)), number)
