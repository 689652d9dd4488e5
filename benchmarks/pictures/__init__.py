"""What is found in pictures, where it was planted.

blindspots.py  concepts that a model draws too rarely or too often
memorised.py   pictures that a model has learned by heart
realism.py     pictures that look unlike canvas
"""
