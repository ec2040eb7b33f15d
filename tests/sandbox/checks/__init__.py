"""What AWS does and stock MiniStack does not: each function is named after its gap."""
