"""The live side: the router, whose decisions are the policies of the serving world, and simulated engines to put behind it."""
