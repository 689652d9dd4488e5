"""The wait policy of torch's OpenMP threads, set before torch is imported."""

import logging
import os
import sys

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables with which a user sets how OpenMP's threads wait."""


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has set one of `CHOICES`.

    By default they spin, and on a busy machine a spinning thread takes the core from the thread that it waits for: 12
    steps of canvas took 38 to 52 s beside two busy loops, and 2.4 s with sleeping threads. On an idle machine sleeping
    costs 18 %. A bounded spin (GOMP_SPINCOUNT=30000) costs 7 % there, but took more than 100 s on a busier machine.
    Results are the same bits. The OpenMP library reads the variable once, when torch is imported.
    """
    if any(name in os.environ for name in CHOICES):
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # For this process's children, too.
    if "torch" in sys.modules:
        logging.getLogger(__name__).warning(
            "torch was imported before saeuron, so its threads spin while they wait, which is slow on a busy machine; "
            "import saeuron first, or set OMP_WAIT_POLICY=PASSIVE"
        )
