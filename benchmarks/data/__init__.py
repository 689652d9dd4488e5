"""Rows read and questions answered, at full size.

reading.py     shuffled rows beside a sequential read
training.py    training from shards beside training from memory
statistics.py  questions to 51 million rows
explorer.py    pages of the explorer with 500 concepts
trying.py      pictures that the explorer draws on request
"""
