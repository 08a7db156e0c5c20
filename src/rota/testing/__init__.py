"""What third parties need to test their own policies: the conformance suite that every policy of rota passes."""
