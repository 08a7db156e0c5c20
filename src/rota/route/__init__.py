"""The live router: an OpenAI-compatible proxy whose decisions are the policies of the serving world."""
