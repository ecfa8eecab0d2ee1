"""Where pictures come from: a module each, whose function of that name returns a `Source`; and a YAML in conf/data."""
