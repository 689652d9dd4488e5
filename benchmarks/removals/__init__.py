"""What removals do to pictures, beside the unedited model.

means.py          UA, IRA and CRA of a workspace's removals, by family
same_pictures.py  pictures that a removal leaves as they are, to the bit
probes.py         how well a probe of n latents tells a concept
wordings.py       gates where a concept is asked for in other words
steps.py          removals at other numbers of steps
schedulers.py     removals with other schedulers
thresholds.py     thresholds in place of TopK
selections.py     other ways to choose what SAeUron's edit acts on
super_concept.py  three concepts at once
"""
