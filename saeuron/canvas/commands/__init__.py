"""Commands of `python -m saeuron.canvas`, beyond those in `__main__`.

asking.py     `prompts`: a file of prompts for a configuration
growing.py    `grow`: train canvas from the weights of canvas20
measuring.py  `evaluate` and `sheet`
terminal.py   options and bars that the commands share
"""
