//! What is in a checkpoint, what of it to quantize, and how it is written.
