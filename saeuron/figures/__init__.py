"""What judged images say of a removal: figures with intervals, damage, a verdict.

metrics.py      UA, IRA, CRA with ceilings and intervals
comparison.py   two removals on the same images
contest.py      several methods on the same concepts and images, against the best
cost.py         what removals cost per image
sequence.py     several removals at once: what is gone, what of the rest
quality.py      Frechet distance, CLIP score, counts of parts
calibration.py  what a judge says of unedited images
published.py    published figures of UnlearnCanvas
row.py          one row of a table of methods
spread.py       the mean of a figure over concepts
damage.py       what a removal does to the other concepts
verdict.py      whether a removal holds, is weak, or failed
words.py        figures as people read them
"""
