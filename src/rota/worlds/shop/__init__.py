"""World `shop`: machines, projects and due dates, from a dispatching rule to a proof."""
