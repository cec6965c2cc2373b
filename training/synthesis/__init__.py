"""Training data from a VLM's own answers: sample logs of lmms-eval in, a folder of samples out; also translated."""
