"""Columns that several views share."""

from __future__ import annotations

from storage.declared import Column

HOOKPOINT = Column("hookpoint", "VARCHAR", "", "dotted path of the module whose output is read, or PATH:input")
SPLIT = Column("split", "VARCHAR", "", "what the prompt is for: train, validation or test")
HALF = Column("half", "VARCHAR", "", "half of the guidance batch that was read")
DOMAIN = Column("domain", "VARCHAR", "", "kind of concept, such as style or object")
PROMPT = Column("prompt_id", "VARCHAR", "", "the prompt, see prompts")

REMOVED = (
    Column("removal_id", "VARCHAR", "", "the removal, see removals"),
    Column("concept", "VARCHAR", "", "the concept that was removed"),
    Column("method", "VARCHAR", "", "how it was removed"),
)
