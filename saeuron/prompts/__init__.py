"""Prompt sets: sentences that ask for concepts, from templates or from files.

prompt.py         a prompt, and how some of many are chosen
templates.py      sentences with the names of domains in braces
rows.py           the rows of a file, whatever its format
layouts.py        which columns of a file say what: one's own, I2P, COCO, Ring-A-Bell, P4D, MMA
files.py          from rows to prompts
unlearncanvas.py  the anchor prompts of UnlearnCanvas
sets.py           the prompt set of a run

A prompt's id is a hash of its text, so that a sentence has the same noise in every run. A benchmark's prompts may bring
a seed and a guidance of their own; these count too.
"""

from saeuron.prompts.files import from_file, sizes, source_of
from saeuron.prompts.prompt import SPLITS, Prompt, cells, choose
from saeuron.prompts.sets import build, prompt_set
from saeuron.prompts.templates import ARTICLE, fill, from_templates, placeholders
from saeuron.prompts.unlearncanvas import ANCHORS, anchor_files, from_unlearncanvas

__all__ = [
    "ANCHORS",
    "ARTICLE",
    "SPLITS",
    "Prompt",
    "anchor_files",
    "build",
    "cells",
    "choose",
    "fill",
    "from_file",
    "from_templates",
    "from_unlearncanvas",
    "placeholders",
    "prompt_set",
    "sizes",
    "source_of",
]
