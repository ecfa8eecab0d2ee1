"""Where data sets come from: a module each, whose function of that name puts one into a folder."""
