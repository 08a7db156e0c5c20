"""LLM serving: replaying request traces on a simulated fleet under competing schedulers."""
