"""What is found in pictures, where it was planted.

blindspots.py  concepts that a model draws too rarely or too often
realism.py     pictures that look unlike canvas
"""
