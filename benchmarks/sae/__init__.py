"""SAEs: speed, quality, and the same numbers as other libraries.

step.py              a training step beside other libraries
kernels.py           kernels for GPUs, one by one
quality.py           FVU, L0 and F1 of every variant
recovery.py          directions that are known
interchange.py       what other libraries compute on our weights, we on theirs
interchange_peer.py  its half in the other library's environment
peers.py             the other libraries' environments
adapters/            one file a library
"""
