"""How each method is held against golden numbers of its authors' code; found by the method's name."""
