"""The live side: engines that answer over HTTP, and the router before them."""
