"""Before any test imports PyTorch."""

from distill2edge.util.threads import spin_briefly

spin_briefly()  # two halves of the suite side by side would spin each other's cores away
