"""Each figure that README and docs/benchmarks.md quote, by one command."""

import saeuron  # noqa: F401  Before any benchmark imports torch: it sets how torch's threads wait.
