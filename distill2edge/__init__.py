"""distill2edge: distil a language model into one that fits the device, and the evidence for it."""
