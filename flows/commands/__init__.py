"""The commands of `saeuron`, a file each."""
