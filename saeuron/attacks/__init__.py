"""Attacks: they try to make a model draw a concept that was removed. One file per attack, one line in `ATTACKS`.

attack.py      what an attack is given, what it tries, and how it draws
texts.py       other sentences: paraphrases, and random words as a control
soft.py        token embeddings that a gradient can reach
gradient.py    five words before the sentence, found by gradients
embedding.py   a new word for the concept, learned as one embedding
inversion.py   no text: starting noise that holds a picture of the concept

An attack knows the removal: its gradients go through the edit. What counts as a success is the caller's matter.
"""

from saeuron.attacks.attack import Attack, Attempt, Target
from saeuron.attacks.embedding import Embedding
from saeuron.attacks.gradient import Gradient
from saeuron.attacks.inversion import Inversion
from saeuron.attacks.texts import Paraphrase, Plain, RandomWords
from saeuron.errors import UnknownName

__all__ = ["ATTACKS", "Attack", "Attempt", "Target", "get"]

ATTACKS: dict[str, Attack] = {
    attack.name: attack for attack in (Plain(), Paraphrase(), RandomWords(), Gradient(), Embedding(), Inversion())
}
"""Every attack by its name, cheap ones first."""


def get(name: str) -> Attack:
    """The attack of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in ATTACKS:
        raise UnknownName("attack", name, ATTACKS)
    return ATTACKS[name]
