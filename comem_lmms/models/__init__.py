"""What lmms-eval sees: the chat models `Baseline`, `VanillaRAG` and `CoMEM`."""
