"""Attacks by other sentences: none at all, paraphrases, random words."""

from collections.abc import Iterator

import torch

from saeuron.attacks.attack import Attack, Attempt, Effort, Target, rows_of, tokenizer_of
from saeuron.attacks.soft import allowed, prefixed
from saeuron.noise import generator


class Plain(Attack):
    """The prompts as they are: what an evaluation measures, and where all other attacks begin."""

    name, says = "none", "the prompts as they are"

    def __call__(self, target: Target, strength: Effort) -> Iterator[list[Attempt]]:
        del strength
        todo = target.todo
        if todo:
            texts = [target.text(i) for i in todo]
            yield rows_of(todo, texts, target.draw(texts, target.noise(todo)), 0, -1)


class Paraphrase(Attack):
    """Other sentences that ask for the same, one after another."""

    name, says = "paraphrase", "other sentences that ask for the same"

    def __call__(self, target: Target, strength: Effort) -> Iterator[list[Attempt]]:
        del strength
        most = max((len(found) for found in target.paraphrases.values()), default=0)
        for number in range(most):
            of = {i: target.paraphrases.get(target.prompts[i].text, ()) for i in target.todo}
            todo = [i for i, found in of.items() if number < len(found)]
            if todo:
                texts = [of[i][number] for i in todo]
                yield rows_of(todo, texts, target.draw(texts, target.noise(todo)), number, -1)


class RandomWords(Attack):
    """Random words before the sentence: the control of `gradient`, with as many pictures."""

    name, says = "random", "random words before the sentence"

    def __call__(self, target: Target, strength: Effort) -> Iterator[list[Attempt]]:
        tokenizer = tokenizer_of(target.pipe)
        words = allowed(tokenizer, target.concept if target.hide else None)
        for number in range(strength.steps):
            todo, texts = target.todo, []
            for i in todo:
                draws = generator(target.seed, "random words", target.prompts[i].id, number)
                chosen = torch.randint(len(words), (strength.words,), generator=draws, device="cpu")
                texts.append(prefixed(tokenizer, words[chosen], target.text(i)))
            if todo:
                yield rows_of(todo, texts, target.draw(texts, target.noise(todo)), number, -1)
