"""Figures of a removal from judged images: metrics with intervals, damage, a verdict.

metrics.py      UA, IRA, CRA with ceilings and intervals
comparison.py   the difference of two removals on the same images
contest.py      several methods on the same concepts and images, compared with the best
cost.py         time per image of removals
sequence.py     several removals at once: what is gone, what stays
quality.py      Frechet distance, CLIP score, counts of parts
calibration.py  accuracy of a judge on unedited images
published.py    published figures of UnlearnCanvas
row.py          one row of a table of methods
spread.py       the mean of a figure over concepts
damage.py       what a removal does to the other concepts
verdict.py      whether a removal holds, is weak, or failed
words.py        figures as text
"""
