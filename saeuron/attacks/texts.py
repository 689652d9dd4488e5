"""Attacks by other sentences: none at all, paraphrases, random words."""

from collections.abc import Iterator

import torch

from saeuron.attacks.attack import Attack, Attempt, Effort, Target, attempts, tokenizer_of, without
from saeuron.attacks.soft import allowed, check_length, prefixed
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
    """Other sentences that ask for the same, one after another; with `hide` without the concept's name."""

    name = "paraphrase"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        del effort
        of = {i: self._others(target, i) for i in range(len(target.prompts))}
        for number in range(max(map(len, of.values()), default=0)):
            todo = [i for i in target.todo if number < len(of[i])]
            if todo:
                texts = [of[i][number] for i in todo]
                yield attempts(todo, texts, target.draw(texts, target.noise(todo)), number)

    def _others(self, target: Target, index: int) -> list[str]:
        """Paraphrases of a prompt; those that are alike without the name are one."""
        found = target.paraphrases.get(target.prompts[index].text, ())
        told = [without(text, target.concept) if target.hide else text for text in found]
        return list(dict.fromkeys(text for text in told if text != target.text(index)))


class RandomWords(Attack):
    """Random words before the sentence: the control of `gradient`, with as many pictures."""

    name = "random"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        tokenizer = tokenizer_of(target.pipe)
        words = allowed(tokenizer, target.concept if target.hide else None)
        filler = words[:1].expand(effort.words)
        check_length(tokenizer, [prefixed(tokenizer, filler, target.text(i)) for i in target.todo])
        for number in range(effort.steps):
            todo, texts = target.todo, []
            for i in todo:
                draws = generator(target.seed, "random words", target.prompts[i].id, number)
                chosen = torch.randint(len(words), (effort.words,), generator=draws, device="cpu")
                texts.append(prefixed(tokenizer, words[chosen], target.text(i)))
            if todo:
                yield attempts(todo, texts, target.draw(texts, target.noise(todo)), number)
